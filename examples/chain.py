"""A chain over three agents: two steps run side by side, the last one waits for both."""

import asyncio
from typing import Any

from aicp import ChainResult, Node, TaskChain


async def fetch(params: dict[str, Any]) -> dict[str, Any]:
    """Stand in for an agent that downloads a page."""
    return {"text": f"All of {params['url']}, in words.", "bytes": 4096}


async def count(params: dict[str, Any]) -> dict[str, Any]:
    """Count the words of a text."""
    return {"words": len(params["text"].split())}


async def report(params: dict[str, Any]) -> str:
    """Put two results into a sentence."""
    return f"{params['words']} words in {params['bytes']} bytes"


async def main() -> ChainResult:
    """Build the chain, run it, return how it ended."""
    chain = TaskChain("page report")
    page = chain.add_task("page.fetch", {"url": "https://example.org"})
    words = chain.add_task("text.count", {"text": page.output["text"]})
    summary = chain.add_task("text.report", {"words": words.output["words"], "bytes": page.output["bytes"]}, id="sum")

    async with Node() as node:
        await node.add_agent("web", {"page.fetch": fetch})
        await node.add_agent("words", {"text.count": count, "text.report": report})
        ended = await node.coordinator.execute_chain(chain)
    print(ended.status, "-", ended[summary].result)
    return ended


asyncio.run(main())
