from aicp.agent.memory import ENTRY_OVERHEAD_BYTES, Memory, fingerprint_of


def test_remembered_answer_is_found_by_its_key() -> None:
    memory = Memory()
    memory.remember("t-1", b"f", b"body")
    found = memory.find("t-1")
    assert found is not None
    assert (found.fingerprint, found.body) == (b"f", b"body")
    assert memory.find("t-2") is None


def test_entries_are_bounded_and_the_least_recently_used_goes_first() -> None:
    memory = Memory(entries_max=2)
    memory.remember("a", b"", b"")
    memory.remember("b", b"", b"")
    memory.find("a")
    memory.remember("c", b"", b"")
    assert "a" in memory
    assert "b" not in memory
    assert "c" in memory


def test_bytes_are_bounded_and_given_back() -> None:
    memory = Memory(bytes_max=2 * (ENTRY_OVERHEAD_BYTES + 101))
    for key in "abc":
        memory.remember(key, b"", b"x" * 100)
    assert [key in memory for key in "abc"] == [False, True, True]
    memory.remember("b", b"", b"y" * 100)
    assert [key in memory for key in "abc"] == [False, True, True]


def test_answer_larger_than_all_room_is_not_remembered_and_drives_nobody_out() -> None:
    memory = Memory(bytes_max=1_000)
    memory.remember("small", b"", b"x")
    memory.remember("large", b"", b"x" * 1_001)
    assert "small" in memory
    assert "large" not in memory


def test_fingerprint_tells_capabilities_and_params_apart_but_not_the_order_of_keys() -> None:
    asked = fingerprint_of("image.label@1", {"a": 1, "b": {"c": 2, "d": 3}})
    assert asked == fingerprint_of("image.label@1", {"b": {"d": 3, "c": 2}, "a": 1})
    assert asked != fingerprint_of("image.label@2", {"a": 1, "b": {"c": 2, "d": 3}})
    assert asked != fingerprint_of("image.label@1", {"a": 1, "b": {"c": 2, "d": 4}})
