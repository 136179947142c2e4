"""Ids of chains, tasks and runs: one form, taken apart and put together in one place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicp.agent.incoming import KEY_CHARS_MAX
from aicp.coordination.task_coordinator import split_task_id
from aicp.errors import TaskNotFound
from aicp.model.run_id import (
    CHAIN_ID_PATTERN,
    RUN_ID_PATTERN,
    TASK_ID_PATTERN,
    RunId,
    chain_of,
    global_id,
    is_id,
    parse_run_id,
    run_in_chain,
    run_of,
    task_of,
)

CHAIN = "019abc3f2e8d4f6a1b2c3d4e5f607182"

run_ids = st.builds(
    RunId,
    st.from_regex(CHAIN_ID_PATTERN, fullmatch=True),
    st.from_regex(TASK_ID_PATTERN, fullmatch=True),
    st.none() | st.integers(0, 999_999),
)


@given(run_ids)
def test_an_id_that_is_written_is_read_back(made: RunId) -> None:
    written = str(made)
    assert parse_run_id(written) == made
    assert is_id(written)
    assert (chain_of(written), run_in_chain(written), task_of(made.run)) == (made.chain_id, made.run, made.task)
    assert split_task_id(written) == (made.chain_id, made.run)


@given(st.from_regex(RUN_ID_PATTERN, fullmatch=True))
def test_each_id_has_one_way_to_be_written(written: str) -> None:
    assert str(parse_run_id(written)) == written


@pytest.mark.parametrize(
    "tail",
    ["", ".", ".a.", ".a.01", ".a.00", ".a.-1", ".a.1000000", ".a.1.2", ".a b", ".é", f".{'a' * 65}", ".a.x", ".a.٣"],
)
def test_what_is_no_task_or_run_is_not_found(tail: str) -> None:
    assert parse_run_id(CHAIN + tail) is None
    with pytest.raises(TaskNotFound):
        split_task_id(CHAIN + tail)


@pytest.mark.parametrize("chain_id", ["", CHAIN[:-1], CHAIN + "0", CHAIN.upper(), f"{CHAIN}\n"])
def test_what_is_no_chain_has_no_runs(chain_id: str) -> None:
    assert parse_run_id(f"{chain_id}.a") is None
    assert not is_id(chain_id)


def test_the_id_of_a_chain_is_an_id_and_no_run() -> None:
    assert is_id(CHAIN)
    assert parse_run_id(CHAIN) is None


def test_the_longest_id_fits_the_key_of_an_agent() -> None:
    assert len(global_id(CHAIN, run_of("a" * 64, 999_999))) < KEY_CHARS_MAX
