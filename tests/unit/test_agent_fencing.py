import pytest

from aicp.agent.fencing import Fence, parse_token


def test_tokens_compare_epoch_first_and_as_numbers() -> None:
    tokens = [parse_token(text) for text in ("2.1", "1.10", "1.9", "10.1")]
    assert sorted(token for token in tokens if token) == [(1, 9), (1, 10), (2, 1), (10, 1)]


@pytest.mark.parametrize(
    "text", ["", "1", "1.", ".1", "1.2.3", "-1.2", "1.-2", "a.b", " 1.2", "1.2\n", "\u0661.\u0662", "9" * 19 + ".1"]
)
def test_malformed_token_is_none(text: str) -> None:
    assert parse_token(text) is None


def test_older_token_is_stale_the_same_one_is_not() -> None:
    fence = Fence()
    fence.advance("t-1", (2, 1))
    assert fence.is_stale("t-1", (1, 9))
    assert not fence.is_stale("t-1", (2, 1))
    assert not fence.is_stale("t-1", (2, 2))
    assert not fence.is_stale("t-2", (1, 1))


def test_remembered_tokens_are_bounded() -> None:
    fence = Fence(tokens_max=2)
    for key in ("a", "b"):
        fence.advance(key, (5, 1))
    fence.advance("a", (5, 2))
    fence.advance("c", (5, 1))
    assert fence.is_stale("a", (4, 1))
    assert not fence.is_stale("b", (4, 1))
