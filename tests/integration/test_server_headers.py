"""White space around a header's value is not a part of it, for every header that the server reads."""

from collections.abc import Callable, Iterator

import msgspec
import pytest

from tests.integration.server_kit import Answered, Api, Test, shared_server

TASK = msgspec.json.encode({"capability": "text.echo", "params": {"a": 1}})
AROUND = {"a blank behind": "{} ", "blanks and a tab": " \t{}\t  ", "a tab in front": "\t{}", "nothing": "{}"}

OnServer = Callable[[Test], None]


@pytest.fixture(scope="module", name="on_server")
def running() -> Iterator[OnServer]:
    with shared_server() as run:
        yield run


async def submitted(api: Api, *fields: str) -> Answered:
    standard = [f"Authorization: Bearer {api.key}", "Content-Type: application/json"]
    named = {field.partition(":")[0] for field in fields}
    fields = (*(field for field in standard if field.partition(":")[0] not in named), *fields)
    return await api.ask_as_written("POST /api/tasks", *fields, body=TASK)


def test_an_idempotency_key_is_the_same_key_whatever_stands_around_it(on_server: OnServer) -> None:
    async def test(api: Api) -> None:
        answers = [await submitted(api, f"Idempotency-Key: {form.format('abc')}") for form in AROUND.values()]
        assert [answer.status for answer in answers] == [202] * len(answers)
        assert len({answer.body["task_id"] for answer in answers}) == 1

    on_server(test)


def test_doubled_keys_that_differ_in_blanks_are_one_key(on_server: OnServer) -> None:
    async def test(api: Api) -> None:
        assert (await submitted(api, "Idempotency-Key: twice", "Idempotency-Key: twice \t")).status == 202

    on_server(test)


@pytest.mark.parametrize("around", AROUND)
def test_credentials_and_types_are_read_without_it(on_server: OnServer, around: str) -> None:
    form = AROUND[around]

    async def test(api: Api) -> None:
        headers = {
            "Authorization": f"Bearer {api.key}",
            "Content-Type": "application/json",
            "Content-Encoding": "identity",
            "Origin": "http://localhost",
            "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
        }
        for name, value in headers.items():
            assert (await submitted(api, f"{name}: {form.format(value)}")).status == 202, name

    on_server(test)


@pytest.mark.parametrize("around", AROUND)
def test_a_cached_page_is_known_by_its_tag(on_server: OnServer, around: str) -> None:
    async def test(api: Api) -> None:
        key = f"Authorization: Bearer {api.key}"
        tag = (await api.ask_as_written("GET /docs", key)).headers["etag"]
        again = await api.ask_as_written("GET /docs", key, f"If-None-Match: {AROUND[around].format(tag)}")
        assert again.status == 304

    on_server(test)
