"""Requests to the owner of a chain: rows that any replica writes, and that the owner makes facts.

| kind | name | becomes |
|---|---|---|
| `cancel` | `cancel` | `ChainCancelled` |
| `answer` | `answer:<run>:<number>:<key>` | `AnswerGiven` |

The first body under a name stays; from the fact on, the fact answers repeats. This version makes cancels facts, and
leaves other kinds to a later one.
"""

from collections.abc import Sequence

import msgspec

from aicp.model.fact import AnswerGiven, ChainCancelled, Fact

CANCEL = "cancel"
KINDS = (CANCEL,)
"""The kinds that this version makes facts."""


class Request(msgspec.Struct, frozen=True):
    """What the owner of a chain is to do.

    Attributes:
        chain_id: The chain.
        name: Tells it from other requests to this chain.
        kind: What it is about.
        body: JSON; the same again under one name is the same request.
        by: Who made it, for people; empty for unknown.
    """

    chain_id: str
    name: str
    kind: str
    body: str = "{}"
    by: str = ""


def cancel_request(chain_id: str) -> Request:
    """The request to cancel a chain."""
    return Request(chain_id, CANCEL, CANCEL)


def answered_by(facts: Sequence[Fact]) -> list[str]:
    """The names of the requests that these facts of a chain answer; they end in the transaction of the facts."""
    names = []
    for fact in facts:
        if isinstance(fact, ChainCancelled):
            names.append(CANCEL)
        elif isinstance(fact, AnswerGiven):
            names.append(f"answer:{fact.task}:{fact.number}:{fact.key}")
    return names
