"""The server shows its API: a document to who has a key, a page to everybody, its methods to who asks a path."""

import re

from tests.integration.server_kit import Api, with_api

METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE"}


def test_document_is_for_any_key() -> None:
    async def test(api: Api) -> None:
        told = await api.get("/openapi.json")
        assert (told.status, told.headers["content-type"]) == (200, "application/json")
        assert told.body["openapi"] == "3.1.0"
        assert (await api.get("/openapi.json", key="wrong")).status == 401

    with_api(test)


def test_page_is_for_everybody_and_may_load_nothing_but_its_style() -> None:
    async def test(api: Api) -> None:
        async with api.session.get(f"{api.url}/docs") as answered:
            assert (answered.status, answered.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
            assert answered.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'self'")
            assert api.key not in await answered.text()
        async with api.session.get(f"{api.url}/docs/page.css") as answered:
            assert (answered.status, answered.headers["Content-Type"]) == (200, "text/css; charset=utf-8")

    with_api(test)


def test_page_that_a_browser_has_already_is_not_sent_again() -> None:
    async def test(api: Api) -> None:
        first = await api.get("/docs")
        again = await api.get("/docs", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status, again.body) == (304, "")

    with_api(test)


def test_every_path_tells_all_of_its_methods_and_refuses_the_others() -> None:
    async def test(api: Api) -> None:
        for template, operations in (await api.get("/openapi.json")).body["paths"].items():
            path = re.sub(r"\{\w+\}", "a", template)
            taken = {method.upper() for method in operations}
            asked = await api.send("OPTIONS", path)
            allowed = set(asked.headers["allow"].split(", "))
            assert (asked.status, allowed - {"HEAD"}) == (204, taken | {"OPTIONS"})
            assert ("HEAD" in allowed) == (operations.get("get", {}).get("security") == [])
            for method in METHODS - taken:
                refused = await api.send(method, path)
                assert (refused.status, refused.code) == (405, "method_not_allowed")
                assert set(refused.headers["allow"].split(", ")) == allowed

    with_api(test)


def test_head_of_an_open_route_is_its_get_without_the_body() -> None:
    async def test(api: Api) -> None:
        for path in ("/livez", "/readyz", "/docs", "/docs/page.css"):
            seen, got = [await api.ask_as_written(f"{method} {path}") for method in ("HEAD", "GET")]
            assert (seen.status, seen.body) == (200, "")
            assert {**seen.headers, "date": ""} == {**got.headers, "date": ""}
            assert int(seen.headers["content-length"]) == len(got.body.encode())
        await api.node.drain(0)
        assert (await api.ask_as_written("HEAD /readyz")).status == 503

    with_api(test)
