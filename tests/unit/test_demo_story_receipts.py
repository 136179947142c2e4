"""Receipts: an agent's answer waits until it was heard that the work has begun, and only who has the key is heard."""

import threading
from collections.abc import Callable
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from aicp.demo.loopback import loopback_server
from aicp.demo.receipts import RECEIPTS_PATH, Receipt, Receipts

BOUND_S = 60.0
KEY = "key-of-this-run"
RECEIPT = Receipt("label-1", "chain-7.label")


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_work_goes_on_while_the_receipt_is_heard_and_the_answer_waits_for_it() -> None:
    arrived, heard, worked, answered = (threading.Event() for _ in range(4))

    def hear(receipt: Receipt) -> None:
        assert receipt == RECEIPT
        arrived.set()
        assert heard.wait(BOUND_S)

    def agent() -> None:
        with Receipts(loopback.url, KEY).announced(RECEIPT):
            worked.set()
        answered.set()

    with loopback_server(KEY, hear) as loopback:
        thread = in_thread(agent)
        assert arrived.wait(BOUND_S)
        assert worked.wait(BOUND_S)
        thread.join(0.2)  # an agent that did not wait would be gone by now
        assert not answered.is_set()
        heard.set()
        thread.join(BOUND_S)

    assert answered.is_set()


def test_receipt_with_another_key_is_not_heard() -> None:
    heard: list[Receipt] = []
    with loopback_server(KEY, heard.append) as loopback, Receipts(loopback.url, "guessed").announced(RECEIPT):
        pass

    assert heard == []


def test_receipt_names_the_step_of_its_task() -> None:
    assert RECEIPT.step == "label"


@pytest.mark.parametrize(("body", "status"), [(b"{}", 400), (b"not json", 400)])
def test_receipt_that_is_none_is_refused(body: bytes, status: int) -> None:
    with loopback_server(KEY, lambda _: None) as loopback:
        request = Request(loopback.url + RECEIPTS_PATH, body, {"Authorization": f"Bearer {KEY}"})
        with pytest.raises(HTTPError) as caught:
            urlopen(request, timeout=BOUND_S)
        caught.value.close()

    assert caught.value.code == status


def test_picture_is_served_once_it_is_there() -> None:
    with loopback_server(KEY, lambda _: None) as loopback:
        with pytest.raises(HTTPError) as caught:
            urlopen(loopback.picture_url, timeout=BOUND_S)
        caught.value.close()
        loopback.picture = b"pixels"
        with urlopen(loopback.picture_url, timeout=BOUND_S) as response:
            assert response.read() == b"pixels"

    assert caught.value.code == 404
