"""What the agents of a pool want to be given: each different schema once, however many agents declare it."""

from collections.abc import Iterator

import msgspec

from aicp.model import agent

Schema = agent.Schema | None
"""A JSON Schema of params; None for an agent that takes anything."""


class _Declared(msgspec.Struct):
    schema: Schema
    agents: int = 0


class InputSchemas:
    """The different input schemas of some agents. A thousand copies of an agent declare one."""

    __slots__ = ("_declared",)

    def __init__(self) -> None:
        self._declared: dict[bytes, _Declared] = {}

    def __iter__(self) -> Iterator[Schema]:
        return (declared.schema for declared in self._declared.values())

    def add(self, schema: Schema) -> None:
        """One more agent declares it. Costs its size."""
        self._declared.setdefault(_written(schema), _Declared(schema)).agents += 1

    def discard(self, schema: Schema) -> None:
        """One of those who declare it has gone."""
        written = _written(schema)
        declared = self._declared[written]
        declared.agents -= 1
        if not declared.agents:
            del self._declared[written]


def _written(schema: Schema) -> bytes:
    return b"" if schema is None else msgspec.json.encode(schema, order="sorted")
