"""LangGraph with its SQLite checkpointer."""

import asyncio
import operator
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypedDict

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from benchmarks.peers.engines.engine import NAP_S, Case, Engine, Sizes


class Counted(TypedDict):
    """State of a chain: what the last step returned, and how many there are to be."""

    n: int
    steps: int


class Fanned(TypedDict):
    """State of a fan-out: what each step returned, and their sum."""

    parts: Annotated[list[int], operator.add]
    total: int


class Layered(TypedDict):
    """State of a DAG: how many steps ended."""

    done: Annotated[int, operator.add]


async def add_one(state: Counted) -> dict[str, int]:
    return {"n": state["n"] + 1}


def after(state: Counted) -> str:
    return "add_one" if state["n"] < state["steps"] else END


async def one(_: Any) -> dict[str, list[int]]:
    return {"parts": [1]}


async def nap(_: Any) -> dict[str, list[int]]:
    await asyncio.sleep(NAP_S)
    return {"parts": [1]}


async def add_up(state: Fanned) -> dict[str, int]:
    return {"total": sum(state["parts"])}


async def done(_: Layered) -> dict[str, int]:
    return {"done": 1}


class Langgraph(Engine):
    """Compiled graphs; compiling them is not measured."""

    name = "LangGraph"
    packages = ("langgraph", "langgraph-checkpoint-sqlite")
    record = "SQLite, WAL, synchronous=FULL, durability='sync': a checkpoint after each superstep"
    notes: ClassVar = {
        Case.SEQUENTIAL: "a node with an edge to itself",
        Case.DAG: "all of a layer end before the next begins",
    }
    sizes = Sizes(chains=100, naps=10, layers=10)

    def __init__(self) -> None:
        self._graphs: dict[object, Any] = {}
        self._saver: Any = None

    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[None]:
        """The checkpointer."""
        async with AsyncSqliteSaver.from_conn_string(str(directory / "langgraph.db")) as self._saver:
            self._graphs = {add_one: self._loop(), one: self._fan(one), nap: self._fan(nap)}
            yield

    def prepare(self, sizes: Sizes) -> None:
        """Compile the DAG, a node for each step."""
        layers, columns = sizes.layers, sizes.columns
        graph = StateGraph(Layered)
        for layer in range(layers):
            for column in range(columns):
                above = [f"t{layer - 1}-{column}", f"t{layer - 1}-{(column + 1) % columns}"]
                graph.add_node(f"t{layer}-{column}", done)
                graph.add_edge(above if layer else START, f"t{layer}-{column}")
        self._graphs[layers, columns] = graph.compile(checkpointer=self._saver)

    async def chain(self, steps: int) -> int:
        """A loop."""
        return int((await self._run(add_one, {"n": 0, "steps": steps}, steps))["n"])

    async def fan_out(self, width: int) -> int:
        """As many `Send` as steps."""
        return int((await self._run(one, {"parts": [], "total": width}, 2))["total"])

    async def naps(self, count: int) -> int:
        """As many `Send` as steps."""
        return int((await self._run(nap, {"parts": [], "total": count}, 2))["total"])

    async def dag(self, layers: int, columns: int) -> int:
        """The compiled one."""
        return int((await self._run((layers, columns), {"done": 0}, layers))["done"])

    async def _run(self, name: object, state: dict[str, Any], supersteps: int) -> Any:
        config = {"configurable": {"thread_id": uuid.uuid4().hex}, "recursion_limit": supersteps + 2}
        return await self._graphs[name].ainvoke(state, config, durability="sync")

    def _loop(self) -> Any:
        graph = StateGraph(Counted)
        graph.add_node("add_one", add_one)
        graph.add_edge(START, "add_one")
        graph.add_conditional_edges("add_one", after)
        return graph.compile(checkpointer=self._saver)

    def _fan(self, step: Any) -> Any:
        graph = StateGraph(Fanned)
        graph.add_node("step", step)
        graph.add_node("add_up", add_up)
        graph.add_conditional_edges(START, lambda state: [Send("step", {})] * state["total"], ["step"])
        graph.add_edge("step", "add_up")
        return graph.compile(checkpointer=self._saver)


ENGINE = Langgraph()
