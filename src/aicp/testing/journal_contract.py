"""What every `Journal` must keep, as tests: subclass `JournalContract` in a test module and say how to make one.

class TestMyJournal(JournalContract):
@asynccontextmanager
async def journal(self) -> AsyncIterator[Journal]:
…

def reopened(self, journal: Journal) -> Journal:
…
"""

import abc
import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from aicp.errors import ChainNotFound, Conflict, IdempotencyConflict, OwnershipLost
from aicp.model.access import reserved_tenant
from aicp.model.chain import ChainSpec, FailurePolicy
from aicp.model.fact import (
    AnswerGiven,
    AttemptAccepted,
    ChainCancelled,
    ChainEnded,
    ChainStopped,
    ChainSubmitted,
    Fact,
    Hold,
    QuestionAsked,
    Share,
    TaskEnded,
    TaskExpanded,
    TaskStarted,
    TemplateUse,
)
from aicp.model.outcome import Outcome, TaskError
from aicp.model.request import CANCEL, Request, cancel_request
from aicp.model.task import Attempt, Charge, OnFailure, Priority, Task, TaskResult, TaskStatus
from aicp.ports import ChainQuery, ChainRecord, ChainSummary, Journal, SubmitKey

AT = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
SIDE_BY_SIDE = 50

_ODD_JSON: tuple[Any, ...] = (
    None,
    True,
    0,
    -1.5,
    1e300,
    2**53,
    "",
    'ü 漢 🙂 \u0000 \n " \\',
    [],
    {},
    {"": [None, {"deep": [[[{"a/b~c": "d"}]]]}]},
    "x" * 100_000,
)


def _rule(check: Callable[[Any, Journal], Coroutine[Any, Any, None]]) -> Callable[[Any], None]:
    """A test of a fresh, open journal. Not `functools.wraps`: pytest would look for a fixture called `journal`."""

    def test(self: "JournalContract") -> None:
        async def main() -> None:
            async with self.journal() as journal:
                await journal.open()
                try:
                    await check(self, journal)
                finally:
                    await journal.close()

        self.run(main())

    test.__name__, test.__qualname__, test.__doc__ = check.__name__, check.__qualname__, check.__doc__
    return test


class JournalContract(abc.ABC):
    """Rules of the port `Journal`, one per test."""

    @abc.abstractmethod
    def journal(self) -> AbstractAsyncContextManager[Journal]:
        """A fresh journal, not yet open; whatever it took is given back at the end."""

    @abc.abstractmethod
    def reopened(self, journal: Journal) -> Journal:
        """A journal, not yet open, over what one left behind when it was closed, as its next owner has it."""

    @asynccontextmanager
    async def _again(self, journal: Journal) -> AsyncIterator[Journal]:
        """The next owner's journal, open, over what this one leaves."""
        await journal.close()
        again = self.reopened(journal)
        await again.open()
        try:
            yield again
        finally:
            await again.close()

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run a test; override it for another loop."""
        asyncio.run(main)

    @_rule
    async def test_what_was_submitted_is_read_back_whole(self, journal: Journal) -> None:
        """A chain comes back as it was given, before anything of it ran."""
        submitted = _full_submit("chain")
        _expect(await journal.submit(submitted) == "chain", "submit must return the id of the chain")
        record = await _read(journal, "chain")
        _expect(record.submitted == submitted, f"came back as {record.submitted}")
        _expect(record.facts == (), f"has facts already: {record.facts}")
        _expect(record.epoch >= 1, f"epoch is {record.epoch}")

    @_rule
    async def test_what_was_never_submitted_is_not_there(self, journal: Journal) -> None:
        """Reading it gives None."""
        await journal.submit(chain("chain"))
        _expect(await journal.read("other") is None, "an unknown chain must read as None")
        _expect(await journal.read("") is None, "the empty id must read as None")

    @_rule
    async def test_no_id_is_too_strange_to_be_unknown(self, journal: Journal) -> None:
        """Anybody may ask for anything, a NUL included."""
        await journal.submit(chain("chain"))
        for strange in ("\0", "chain\0", "\N{REPLACEMENT CHARACTER}", "'; --", "%"):
            _expect(await journal.read(strange) is None, f"{strange!r} must read as None")
            _expect(await journal.outlines([strange]) == [], f"{strange!r} must have no outline")
            _expect(await _page(journal, before=strange) == [], f"there are chains before {strange!r}")

    @_rule
    async def test_facts_come_back_whole_and_in_order(self, journal: Journal) -> None:
        """Every kind of fact, within one append and over several."""
        await journal.submit(chain("chain"))
        facts = _one_of_each_kind()
        await journal.append(facts[:3])
        for fact in facts[3:]:
            await journal.append([fact])
        record = await _read(journal, "chain")
        _expect(list(record.facts) == facts, f"came back as {record.facts}")

    @_rule
    async def test_any_json_result_comes_back_as_it_was(self, journal: Journal) -> None:
        """Nothing is lost of odd values."""
        await journal.submit(chain("chain"))
        facts: list[Fact] = [ended("chain", f"t{number}", result=value) for number, value in enumerate(_ODD_JSON)]
        await journal.append(facts)
        results = [_result_of(fact) for fact in (await _read(journal, "chain")).facts]
        _expect(results == list(_ODD_JSON), "results came back changed")

    @_rule
    async def test_appending_nothing_changes_nothing(self, journal: Journal) -> None:
        """An empty append is allowed."""
        await journal.submit(chain("chain"))
        await journal.append([])
        _expect((await _read(journal, "chain")).facts == (), "facts came from nowhere")

    @_rule
    async def test_an_append_is_about_one_chain_and_else_recorded_not_at_all(self, journal: Journal) -> None:
        """Facts of several are a defect of whoever appends them."""
        for name in ("one", "two"):
            await journal.submit(chain(name))
        await _expect_refused(journal.append([ended("one", "a"), ended("two", "a")]), ValueError)
        for name in ("one", "two"):
            _expect((await _read(journal, name)).facts == (), "a part of a refused append is on record")

    @_rule
    async def test_facts_of_a_chain_that_was_never_submitted_are_refused(self, journal: Journal) -> None:
        """And recorded nowhere."""
        await _expect_refused(journal.append([ended("never-submitted", "a")]), ChainNotFound)
        _expect(await journal.read("never-submitted") is None, "a chain came from nowhere")

    @_rule
    async def test_a_chain_that_ended_takes_no_more_facts(self, journal: Journal) -> None:
        """Neither later nor right behind its end."""
        await journal.submit(chain("chain"))
        await journal.append([ended("chain", "a"), ChainEnded("chain", TaskStatus.COMPLETED, AT)])
        for late in ([ended("chain", "b")], [ChainEnded("chain", TaskStatus.FAILED, AT)]):
            await _expect_refused(journal.append(late), Conflict)
        _expect(len((await _read(journal, "chain")).facts) == 2, "something was recorded after the end")

    @_rule
    async def test_a_fact_may_stand_twice(self, journal: Journal) -> None:
        """Whoever lost the answer to an append does it again."""
        await journal.submit(chain("chain"))
        for _ in range(2):
            await journal.append([ended("chain", "a")])
        _expect(_tasks(await _read(journal, "chain")) == ["a", "a"], "a repeated append was not recorded")

    @_rule
    async def test_facts_submitted_with_a_chain_are_on_record_with_it(self, journal: Journal) -> None:
        """As the first ones; a repeated submit adds none."""
        key = SubmitKey("tenant", "key", b"digest")
        await journal.submit(
            chain("chain"), key, [ended("chain", "a", result=1), ended("chain", "b", result="x" * 70_000)]
        )
        _expect(await journal.submit(chain("other"), key, [ended("other", "a")]) == "chain", "another id")
        await journal.append([ended("chain", "c")])
        record = await _read(journal, "chain")
        _expect(_tasks(record) == ["a", "b", "c"], f"on record is {_tasks(record)}")
        _expect(_result_of(record.facts[1]) == "x" * 70_000, "a large result came back changed")
        (listed,) = await journal.list_chains(ChainQuery())
        _expect(listed.status is TaskStatus.RUNNING, f"listed as {listed.status}")

    @_rule
    async def test_a_chain_id_that_is_taken_is_a_conflict(self, journal: Journal) -> None:
        """The first chain stays as it is."""
        first = chain("chain")
        await journal.submit(first)
        await _expect_refused(journal.submit(chain("chain", tenant="other")), Conflict)
        _expect((await _read(journal, "chain")).submitted == first, "the first chain was overwritten")

    @_rule
    async def test_a_record_once_read_does_not_change(self, journal: Journal) -> None:
        """Later facts are in later readings."""
        await journal.submit(chain("chain"))
        before = await _read(journal, "chain")
        await journal.append([ended("chain", "a")])
        _expect(before.facts == (), "a record changed after it was read")

    @_rule
    async def test_appends_side_by_side_keep_the_order_in_which_they_were_asked_for(self, journal: Journal) -> None:
        """Whoever records an end last may rely on what was asked for before it being there first."""
        await journal.submit(chain("chain"))
        async with asyncio.TaskGroup() as group:
            for number in range(SIDE_BY_SIDE):
                group.create_task(journal.append([ended("chain", f"t{number}")]))
        found = _tasks(await _read(journal, "chain"))
        _expect(found == [f"t{number}" for number in range(SIDE_BY_SIDE)], f"the order is {found}")

    @_rule
    async def test_a_cancelled_append_is_recorded_whole_or_not_at_all(self, journal: Journal) -> None:
        """Wherever the cancellation comes, and the journal goes on."""
        for turns in range(20):
            name = f"chain-{turns}"
            await journal.submit(chain(name))
            appending = asyncio.create_task(journal.append([ended(name, "a"), ended(name, "b")]))
            for _ in range(turns):
                await asyncio.sleep(0)
            appending.cancel()
            await asyncio.wait([appending])
            await journal.append([ended(name, "c")])
            found = _tasks(await _read(journal, name))
            _expect(found in (["c"], ["a", "b", "c"]), f"on record is {found}")

    @_rule
    async def test_a_submit_makes_its_journal_the_owner_so_there_is_nothing_to_claim(self, journal: Journal) -> None:
        """A claim is about what others left."""
        await journal.submit(chain("chain"))
        _expect(list(await journal.claim(10)) == [], "a chain of one's own was claimed")
        _expect((await _read(journal, "chain")).epoch == 1, "its epoch has changed")

    @_rule
    async def test_the_next_owner_claims_what_has_no_end_oldest_first(self, journal: Journal) -> None:
        """With everything recorded of it, and each chain once."""
        for number, name in enumerate(("first", "second", "third", "fourth")):
            await journal.submit(chain(name, after_s=number))
        await journal.append([ended("third", "a")])
        await journal.append([ChainEnded("second", TaskStatus.COMPLETED, AT)])
        await journal.append([ChainCancelled("fourth", AT)])
        async with self._again(journal) as again:
            await again.submit(chain("fifth", after_s=5))
            found: list[tuple[str, int, int]] = []
            while records := await again.claim(2):
                _expect(len(records) <= 2, f"{len(records)} chains were claimed at once")
                found += [(record.submitted.chain_id, len(record.facts), record.epoch) for record in records]
            _expect(found == [("first", 0, 2), ("third", 1, 2), ("fourth", 1, 2)], f"claimed were {found}")
            _expect(list(await again.claim(2)) == [], "something was claimed twice")

    @_rule
    async def test_the_epoch_rises_with_every_owner(self, journal: Journal) -> None:
        """Also when nothing was recorded in between."""
        await journal.submit(chain("chain"))
        for epoch in (2, 3, 4):
            async with self._again(journal) as again:
                (record,) = await again.claim(10)
                _expect(record.epoch == epoch, f"epoch is {record.epoch}, not {epoch}")
                _expect((await _read(again, "chain")).epoch == epoch, "it reads otherwise")

    @_rule
    async def test_an_owner_of_an_older_epoch_is_refused_and_the_new_one_is_not(self, journal: Journal) -> None:
        """And nothing of what it wanted to record is recorded."""
        await journal.submit(chain("chain"))
        await journal.append([ended("chain", "a")], 1)
        async with self._again(journal) as again:
            await again.claim(10)
            await _expect_refused(again.append([ended("chain", "b")], 1), OwnershipLost)
            await again.append([ended("chain", "c")], 2)
            await again.append([ChainEnded("chain", TaskStatus.COMPLETED, AT)], 2)
            _expect(_tasks(await _read(again, "chain")) == ["a", "c"], "an old owner wrote")

    @_rule
    async def test_chains_are_listed_newest_first_page_by_page(self, journal: Journal) -> None:
        """Pages neither overlap nor leave anything out."""
        names = [f"chain-{number:03}" for number in range(25)]
        for number, name in enumerate(names):
            await journal.submit(chain(name, after_s=number))
        found: list[str] = []
        while page := await _page(journal, limit=10, before=found[-1] if found else None):
            _expect(len(page) <= 10, f"a page has {len(page)} chains")
            found += page
        _expect(found == names[::-1], f"listed are {found}")

    @_rule
    async def test_a_list_shows_the_finished_too(self, journal: Journal) -> None:
        """An end does not hide a chain."""
        await journal.submit(chain("chain"))
        await journal.append([ChainEnded("chain", TaskStatus.COMPLETED, AT)])
        _expect(await _page(journal) == ["chain"], "a finished chain is not listed")

    @_rule
    async def test_a_tenant_sees_its_own_chains_alone(self, journal: Journal) -> None:
        """Also where another tenant's are in between."""
        for number in range(20):
            await journal.submit(chain(f"chain-{number:02}", tenant="ab"[number % 2], after_s=number))
        found = await _page(journal, tenant="a", limit=5)
        _expect(found == ["chain-18", "chain-16", "chain-14", "chain-12", "chain-10"], f"listed are {found}")
        found = await _page(journal, tenant="a", limit=3, before="chain-14")
        _expect(found == ["chain-12", "chain-10", "chain-08"], f"the next page is {found}")
        _expect(await _page(journal, tenant="nobody") == [], "a tenant without chains sees some")

    @_rule
    async def test_a_page_after_a_chain_that_is_not_there_is_empty(self, journal: Journal) -> None:
        """Nothing comes before nothing."""
        await journal.submit(chain("chain"))
        _expect(await _page(journal, before="never-submitted") == [], "there are chains before an unknown one")

    @_rule
    async def test_a_list_tells_where_each_chain_stands_as_recorded(self, journal: Journal) -> None:
        """With everything else that a list shows."""
        await journal.submit(chain("chain", tenant="ours", retry_of="earlier", spec=_full_spec()))
        expected = ChainSummary("chain", "a name", "ours", TaskStatus.PENDING, 2, AT, None, "earlier")
        steps: list[tuple[Fact, TaskStatus]] = [
            (TaskStarted("chain", "a", AT), TaskStatus.PENDING),
            (ended("chain", "a"), TaskStatus.RUNNING),
            (ChainEnded("chain", TaskStatus.FAILED, AT), TaskStatus.FAILED),
        ]
        for fact, status in steps:
            await journal.append([fact])
            expected = msgspec.structs.replace(
                expected, status=status, ended_at=AT if isinstance(fact, ChainEnded) else None
            )
            _expect(list(await journal.list_chains(ChainQuery())) == [expected], f"after {fact} it is not {expected}")

    @_rule
    async def test_a_list_may_be_of_those_that_stand_somewhere(self, journal: Journal) -> None:
        """Together with a tenant and a page."""
        for number in range(6):
            await journal.submit(chain(f"chain-{number}", tenant="ab"[number % 2], after_s=number))
        for number in (0, 1, 4):
            await journal.append([ChainEnded(f"chain-{number}", TaskStatus.COMPLETED, AT)])
        completed = TaskStatus.COMPLETED
        _expect(await _page(journal, status=completed) == ["chain-4", "chain-1", "chain-0"], "of one status")
        _expect(await _page(journal, status=completed, tenant="a") == ["chain-4", "chain-0"], "of a tenant")
        _expect(await _page(journal, status=completed, limit=1, before="chain-4") == ["chain-1"], "of a page")
        _expect(await _page(journal, status=TaskStatus.PENDING, tenant="b") == ["chain-5", "chain-3"], "of the others")

    @_rule
    async def test_a_page_after_another_tenants_chain_is_empty(self, journal: Journal) -> None:
        """As it is after one that is not there: nobody learns whether others have it."""
        for number, tenant in enumerate("aba"):
            await journal.submit(chain(f"chain-{number}", tenant=tenant, after_s=number))
        _expect(await _page(journal, tenant="a", before="chain-1") == [], "a foreign chain is a place in a list")
        _expect(await _page(journal, tenant="a", before="chain-2") == ["chain-0"], "an own one is none")
        _expect(await _page(journal, before="chain-1") == ["chain-0"], "without a tenant every chain is a place")

    @_rule
    async def test_a_list_may_be_of_unfinished_chains_only(self, journal: Journal) -> None:
        """Together with a tenant, a status and a page; the place of the page may have ended by then."""
        for number in range(6):
            await journal.submit(chain(f"chain-{number}", tenant="ab"[number % 2], after_s=number))
        await journal.append([ended("chain-2", "a")])
        for number in (0, 3, 4):
            await journal.append([ChainEnded(f"chain-{number}", TaskStatus.COMPLETED, AT)])
        unfinished = ChainQuery(unfinished=True)
        for query, expected in (
            (unfinished, ["chain-5", "chain-2", "chain-1"]),
            (msgspec.structs.replace(unfinished, tenant="b"), ["chain-5", "chain-1"]),
            (msgspec.structs.replace(unfinished, status=TaskStatus.RUNNING), ["chain-2"]),
            (msgspec.structs.replace(unfinished, limit=1, before="chain-4"), ["chain-2"]),
            (msgspec.structs.replace(unfinished, tenant="a", before="chain-4"), ["chain-2"]),
        ):
            found = [summary.chain_id for summary in await journal.list_chains(query)]
            _expect(found == expected, f"{query} found {found}")

    @_rule
    async def test_a_list_may_be_of_names_that_begin_so(self, journal: Journal) -> None:
        """By their characters, whatever these mean elsewhere; together with other filters."""
        names = ["image label", "Image", "image_label", "image%", "", "i", "imagé \U0010ffff", "imag"]
        for number, name in enumerate(names):
            spec = ChainSpec((Task("text.echo", id="t0"),), name)
            await journal.submit(chain(f"chain-{number}", tenant="ab"[number % 2], spec=spec))
        await journal.append([ChainEnded("chain-2", TaskStatus.COMPLETED, AT)])
        for query, expected in (
            (ChainQuery(name="image"), [3, 2, 0]),
            (ChainQuery(name="imag"), [7, 6, 3, 2, 0]),
            (ChainQuery(name="image_"), [2]),
            (ChainQuery(name="image%"), [3]),
            (ChainQuery(name="imagé"), [6]),
            (ChainQuery(name="'\0"), []),
            (ChainQuery(name=""), [7, 6, 5, 4, 3, 2, 1, 0]),
            (ChainQuery("a", name="imag"), [6, 2, 0]),
            (ChainQuery(name="imag", before="chain-6", limit=2), [3, 2]),
            (ChainQuery(name="imag", status=TaskStatus.COMPLETED), [2]),
            (ChainQuery(name="imag", unfinished=True, limit=3), [7, 6, 3]),
        ):
            found = [summary.chain_id for summary in await journal.list_chains(query)]
            _expect(found == [f"chain-{number}" for number in expected], f"{query} found {found}")

    @_rule
    async def test_a_list_may_be_of_a_time(self, journal: Journal) -> None:
        """From one time on and before another, sorted by the time of the submit, and then as they were recorded."""
        for number, second in enumerate((0, 3, 1, 3, 2)):
            await journal.submit(chain(f"chain-{number}", tenant="ab"[number % 2], after_s=second))
        await journal.append([ChainEnded("chain-3", TaskStatus.COMPLETED, AT)])
        at = [AT + timedelta(seconds=second) for second in range(5)]
        for query, expected in (
            (ChainQuery(submitted_from=at[0]), [3, 1, 4, 2, 0]),
            (ChainQuery(submitted_from=at[1], submitted_to=at[3]), [4, 2]),
            (ChainQuery(submitted_to=at[1]), [0]),
            (ChainQuery(submitted_from=at[4]), []),
            (ChainQuery(submitted_from=at[0], before="chain-3", limit=2), [1, 4]),
            (ChainQuery(submitted_from=at[0], before="never-submitted"), []),
            (ChainQuery("a", submitted_from=at[1]), [4, 2]),
            (ChainQuery("a", submitted_from=at[0], before="chain-1"), []),
            (ChainQuery(submitted_to=at[4], status=TaskStatus.COMPLETED), [3]),
            (ChainQuery(submitted_to=at[4], unfinished=True, limit=2), [1, 4]),
        ):
            found = [summary.chain_id for summary in await journal.list_chains(query)]
            _expect(found == [f"chain-{number}" for number in expected], f"{query} found {found}")

    @_rule
    async def test_outlines_are_the_records_without_results(self, journal: Journal) -> None:
        """Small results and large ones, in the order asked for; what is not there is left out."""
        await journal.submit(chain("first", tenant="ours", retry_of="earlier", spec=_full_spec()))
        await journal.append(_one_of_each_kind("first"))
        await journal.submit(chain("second"))
        await journal.append([ended("second", f"t{number}", result=value) for number, value in enumerate(_ODD_JSON)])
        found = list(await journal.outlines(["second", "never-submitted", "first"]))
        whole = [await _read(journal, name) for name in ("second", "first")]
        _expect([_without_results(record) for record in whole] == found, f"the outlines are {found}")
        _expect(list(await journal.outlines([])) == [], "outlines came from nowhere")

    @_rule
    async def test_old_chains_are_forgotten_once_they_ended(self, journal: Journal) -> None:
        """Oldest end first, no more than asked for, and never an unfinished one."""
        for number in range(5):
            await journal.submit(chain(f"chain-{number}"))
        for number in range(4):
            at = AT + timedelta(seconds=number)
            await journal.append(
                [ended(f"chain-{number}", "a"), ChainEnded(f"chain-{number}", TaskStatus.COMPLETED, at)]
            )
        _expect(await journal.prune(AT, 10) == 0, "something was forgotten too early")
        _expect(await journal.prune(AT + timedelta(seconds=3), 2) == 2, "two were to be forgotten")
        _expect(await _page(journal) == ["chain-4", "chain-3", "chain-2"], "the wrong ones were forgotten")
        _expect(await journal.prune(AT + timedelta(days=1), 10) == 2, "two more were to be forgotten")
        _expect(await _page(journal) == ["chain-4"], "an unfinished one was forgotten")
        _expect(await journal.read("chain-3") is None, "a forgotten chain can be read")

    @_rule
    async def test_a_key_outlives_the_chain_it_leads_to(self, journal: Journal) -> None:
        """So that nothing is done twice because its chain was forgotten early."""
        key = SubmitKey("tenant", "key", b"digest")
        await journal.submit(chain("first"), key)
        await journal.append([ChainEnded("first", TaskStatus.COMPLETED, AT)])
        _expect(await journal.prune(AT + timedelta(seconds=1), 10) == 1, "it was not forgotten")
        _expect(await journal.find(key) == "first", "the key was forgotten with it")
        _expect(await journal.submit(chain("second"), key) == "first", "a repeated submit got another id")

    @_rule
    async def test_a_key_is_found_once_it_was_used(self, journal: Journal) -> None:
        """With the same body; another one is a conflict."""
        key = SubmitKey("tenant", "key", b"digest")
        _expect(await journal.find(key) is None, "a key was found before it was used")
        await journal.submit(chain("first"), key)
        _expect(await journal.find(key) == "first", "a key was not found")
        _expect(await journal.find(SubmitKey("other", "key", b"digest")) is None, "another tenant's key was found")
        await _expect_refused(journal.find(SubmitKey("tenant", "key", b"another")), IdempotencyConflict)

    @_rule
    async def test_the_same_key_and_body_give_the_first_chain_again(self, journal: Journal) -> None:
        """And record no other, also after the first has ended."""
        key = SubmitKey("tenant", "key", b"digest")
        _expect(await journal.submit(chain("first"), key) == "first", "the first submit got another id")
        _expect(await journal.submit(chain("second"), key) == "first", "a repeated submit got another id")
        await journal.append([ChainEnded("first", TaskStatus.COMPLETED, AT)])
        _expect(await journal.submit(chain("third"), key) == "first", "a submit repeated after the end got another id")
        _expect(await _page(journal) == ["first"], "a repeated submit recorded a chain")

    @_rule
    async def test_the_same_key_with_another_body_is_a_conflict(self, journal: Journal) -> None:
        """And records nothing."""
        await journal.submit(chain("first"), SubmitKey("tenant", "key", b"digest"))
        try:
            await journal.submit(chain("second"), SubmitKey("tenant", "key", b"another"))
        except IdempotencyConflict:
            _expect(await journal.read("second") is None, "a refused submit is on record")
        else:
            raise AssertionError("another body under the same key must be an IdempotencyConflict")

    @_rule
    async def test_keys_are_each_tenants_own_and_submits_without_one_never_meet(self, journal: Journal) -> None:
        """A key of one tenant means nothing to another, nor to one that AICP makes for that tenant."""
        for number, tenant in enumerate(("a", "b", reserved_tenant("a", "schedules"))):
            found = await journal.submit(chain(f"chain-{number}"), SubmitKey(tenant, "key", b"digest"))
            _expect(found == f"chain-{number}", f"tenant {tenant} got {found}")
        for number in range(3, 5):
            _expect(
                await journal.submit(chain(f"chain-{number}")) == f"chain-{number}", "a submit without a key met one"
            )

    @_rule
    async def test_submits_side_by_side_with_one_key_record_one_chain(self, journal: Journal) -> None:
        """Whoever is first; all get its id."""
        key = SubmitKey("tenant", "key", b"digest")
        ids = await asyncio.gather(*(journal.submit(chain(f"chain-{number}"), key) for number in range(SIDE_BY_SIDE)))
        _expect(len(set(ids)) == 1, f"they got {set(ids)}")
        _expect(await _page(journal) == [ids[0]], "more than one chain is on record")

    @_rule
    async def test_what_was_confirmed_survives_the_journal_if_it_is_durable(self, journal: Journal) -> None:
        """Chains, facts, keys and ends; one that is not durable says so."""
        if not journal.durable:
            return
        key = SubmitKey("tenant", "key", b"digest")
        await journal.submit(chain("first", spec=_full_spec()), key)
        await journal.submit(chain("second", after_s=1))
        await journal.append(_one_of_each_kind("first"))
        before = [await _read(journal, name) for name in ("first", "second")]
        await journal.close()
        again = self.reopened(journal)
        await again.open()
        try:
            after = [await _read(again, name) for name in ("first", "second")]
            _expect([(r.submitted, r.facts) for r in after] == [(r.submitted, r.facts) for r in before], "it forgot")
            _expect(await again.submit(chain("third"), key) == "first", "it forgot a key")
            unfinished = [record.submitted.chain_id for record in await again.claim(10)]
            _expect(unfinished == ["second"], f"unfinished are {unfinished}")
        finally:
            await again.close()

    @_rule
    async def test_a_request_is_for_the_owner_of_an_unfinished_chain(self, journal: Journal) -> None:
        """It comes again until it is answered, and there are none to a chain that has ended, or was never there."""
        await journal.submit(chain("chain"))
        _expect(list(await journal.asked()) == [], "a request came from nowhere")
        _expect(not await journal.ask(cancel_request("never-submitted")), "a chain that is not there took a request")
        for _ in range(2):
            _expect(await journal.ask(cancel_request("chain")), "an unfinished chain took no request")
            _expect(list(await journal.asked()) == [cancel_request("chain")], "the request does not come again")
        await journal.append([ChainEnded("chain", TaskStatus.COMPLETED, AT)])
        _expect(list(await journal.asked()) == [], "a chain that has ended has requests")
        _expect(not await journal.ask(cancel_request("chain")), "a chain that has ended took a request")

    @_rule
    async def test_the_first_body_of_a_request_stays(self, journal: Journal) -> None:
        """The same again is the same request, another one a conflict."""
        await journal.submit(chain("chain"))
        first = Request("chain", CANCEL, CANCEL, '{"why": "\\u00fc"}', "somebody")
        _expect(await journal.ask(first), "an unfinished chain took no request")
        _expect(await journal.ask(msgspec.structs.replace(first, by="else")), "the same again was refused")
        await _expect_refused(journal.ask(msgspec.structs.replace(first, body="{}")), Conflict)
        _expect(list(await journal.asked()) == [first], "the first request was replaced")

    @_rule
    async def test_a_request_ends_with_the_fact_that_answers_it(self, journal: Journal) -> None:
        """All others stay."""
        for name in ("one", "two"):
            await journal.submit(chain(name))
            await journal.ask(cancel_request(name))
        await journal.append([ended("one", "a")])
        _expect(len(await journal.asked()) == 2, "another fact answered a request")
        await journal.append([ChainCancelled("one", AT)])
        _expect(list(await journal.asked()) == [cancel_request("two")], "it was not answered")

    @_rule
    async def test_a_request_outlives_its_owner_and_goes_with_its_chain(self, journal: Journal) -> None:
        """The next owner finds it, if the journal is durable."""
        if not journal.durable:
            return
        await journal.submit(chain("chain"))
        await journal.ask(cancel_request("chain"))
        async with self._again(journal) as again:
            await again.claim(10)
            _expect(list(await again.asked()) == [cancel_request("chain")], "the next owner has no request")
            await again.append([ChainEnded("chain", TaskStatus.COMPLETED, AT)], 2)
            _expect(await again.prune(AT + timedelta(days=1), 10) == 1, "the chain was not forgotten")
            _expect(list(await again.asked()) == [], "a request outlived its chain")

    @_rule
    async def test_what_lists_show_of_a_chain_is_read_by_its_id(self, journal: Journal) -> None:
        """None for a chain that is not there."""
        await journal.submit(chain("chain", tenant="ours"))
        _expect(list(await journal.list_chains(ChainQuery())) == [await journal.summary("chain")], "another summary")
        _expect(await journal.summary("\0") is None, "an unknown chain has a summary")

    @_rule
    async def test_close_may_come_twice(self, journal: Journal) -> None:
        """The second close finds nothing to do."""
        await journal.submit(chain("chain"))
        await journal.close()
        await journal.close()


def chain(
    chain_id: str,
    *,
    spec: ChainSpec | None = None,
    tenant: str = "default",
    after_s: float = 0.0,
    retry_of: str | None = None,
) -> ChainSubmitted:
    """A chain to submit, `after_s` seconds after others."""
    default = ChainSpec((Task("test.echo", id="a"),))
    return ChainSubmitted(chain_id, spec or default, AT + timedelta(seconds=after_s), tenant, retry_of)


def ended(chain_id: str, task: str, *, result: Any = None) -> TaskEnded:
    """The fact that a task completed."""
    return TaskEnded(chain_id, task, TaskResult(f"{chain_id}.{task}", "test.echo", TaskStatus.COMPLETED, result))


def _full_submit(chain_id: str) -> ChainSubmitted:
    """With every field."""
    return msgspec.structs.replace(
        chain(chain_id, tenant="ours", retry_of="earlier", spec=_full_spec()),
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        key_id="key-1",
        allowed=("test.echo", "test.echo@2"),
        parent="019abc3f2e8d4f6a1b2c3d4e5f607182.label.7",
        share=Share(runs=50_000, chains=100, depth=7),
        template=TemplateUse("nightly", "2.1.0", "ab" * 32),
        inputs={"url": "https://example.org"},
        start_at=AT + timedelta(days=1),
        hold=Hold("USD", 10**15, "ours", ("budget-1",)),
        cost_center="research",
    )


def _full_spec() -> ChainSpec:
    first = Task("test.echo", {"odd": list(_ODD_JSON)}, id="a", timeout_s=1.5, deadline_s=7.0, idempotent=False)
    second = Task(
        "test.echo@2",
        {"from": {"$result": "a", "path": "/x"}},
        id="b",
        depends_on=("a",),
        on_failure=OnFailure({"default": [None]}),
        priority=Priority.HIGH,
        labels={"gpu": "yes"},
        agents=("one", "two"),
        exclude_agents=("three",),
    )
    return ChainSpec((first, second), "a name", 90.5, FailurePolicy.CONTINUE)


def _one_of_each_kind(chain_id: str = "chain") -> list[Fact]:
    tried = (
        Attempt("agent-1", 1, Outcome.AGENT_FAULT, "answered 500", AT, AT + timedelta(seconds=1)),
        Attempt("agent-2", 2, Outcome.SUCCESS, "", AT + timedelta(seconds=1), AT + timedelta(microseconds=2)),
    )
    completed = TaskResult(
        f"{chain_id}.a", "test.echo", TaskStatus.COMPLETED, {"x": 1}, None, "agent-2", tried, AT, AT, AT, "key-1",
        (Charge("agent-2", 2, "success", {"tokens": 812}, 3876, "0123456789abcdef"),),
    )  # fmt: skip
    failed = TaskResult(
        f"{chain_id}.b", "test.echo@2", TaskStatus.FAILED, error=TaskError("no_face", "There is no face."), ended_at=AT
    )
    return [
        TaskStarted(chain_id, "a", AT),
        TaskStarted(chain_id, "a", AT, 2, "agent-2", worst=10**15),
        AttemptAccepted(chain_id, "a", 2, "agent-2", "boot-1", "job 7", AT),
        QuestionAsked(chain_id, "a", 2, "q-1", "Which one?", AT, {"type": "string"}, "https://example.org/q"),
        AnswerGiven(chain_id, "a", 2, "q-1", AT, {"deep": [None]}, by="key-1"),
        AnswerGiven(chain_id, "a", 2, "q-2", AT, error=TaskError("refused", "Not by me."), by="key-1"),
        TaskExpanded(chain_id, "b", 2, AT),
        TaskEnded(chain_id, "b.1", completed),
        TaskEnded(chain_id, "a", completed),
        TaskEnded(chain_id, "b", failed),
        ChainCancelled(chain_id, AT),
        ChainStopped(chain_id, TaskStatus.FAILED, AT, TaskError("enough", "It is enough."), {"so": "far"}),
        ChainEnded(chain_id, TaskStatus.CANCELLED, AT, TaskError("cancelled", "by a person"), [1]),
    ]


async def _read(journal: Journal, chain_id: str) -> ChainRecord:
    record = await journal.read(chain_id)
    if record is None:
        raise AssertionError(f"chain '{chain_id}' is not on record")
    return record


def _without_results(record: ChainRecord) -> ChainRecord:
    facts = tuple(
        msgspec.structs.replace(fact, result=msgspec.structs.replace(fact.result, result=None))
        if isinstance(fact, TaskEnded)
        else fact
        for fact in record.facts
    )
    return msgspec.structs.replace(record, facts=facts)


async def _page(
    journal: Journal,
    *,
    tenant: str | None = None,
    status: TaskStatus | None = None,
    limit: int = 50,
    before: str | None = None,
) -> list[str]:
    summaries = await journal.list_chains(ChainQuery(tenant, status, limit, before))
    return [summary.chain_id for summary in summaries]


async def _expect_refused(asked: Coroutine[Any, Any, Any], kind: type[Exception]) -> None:
    try:
        await asked
    except kind:
        return
    raise AssertionError(f"this must be refused with {kind.__name__}")


def _tasks(record: ChainRecord) -> list[str]:
    return [fact.task for fact in record.facts if isinstance(fact, TaskEnded)]


def _result_of(fact: Fact) -> Any:
    return fact.result.result if isinstance(fact, TaskEnded) else fact


def _expect(holds: bool, message: str) -> None:  # noqa: FBT001 - reads like an assertion
    if not holds:
        raise AssertionError(message)
