import asyncio

from aicp import Node, Task, TaskResult


async def broken(params: dict[str, str]) -> None:
    raise ConnectionError(f"lost the model server while reading {params['url']}")


async def label(params: dict[str, str]) -> dict[str, str]:
    return {"seen": "a cat", "in": params["url"], "by": "eyes-2"}


async def main() -> TaskResult:
    async with Node() as node:
        await node.add_agent("eyes-1", {"image.label": broken})
        await node.add_agent("eyes-2", {"image.label": label})
        return await node.router.route_task(Task("image.label", {"url": "cat.png"}))


print(asyncio.run(main()).result)
