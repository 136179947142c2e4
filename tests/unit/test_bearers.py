"""A bearer that is kept in a file or a variable is one that a header can carry, or it is refused where it is read."""

from functools import partial
from pathlib import Path

import pytest

from aicp.errors import SettingsError
from aicp.model.agent import BEARER_CHARS_MAX
from aicp.runtime.bearers import FILE_CHARS_MAX, bearer_in_file, bearer_in_variable


@pytest.mark.parametrize("held", ["s3cret", "  s3cret\n\n", "a" * BEARER_CHARS_MAX, "x" + "\n" * (FILE_CHARS_MAX - 1)])
def test_bearer_is_what_stands_between_blanks(tmp_path: Path, held: str) -> None:
    file = tmp_path / "token"
    file.write_text(held)
    assert bearer_in_file(file).bearer == held.strip()
    assert bearer_in_variable("TOKEN", {"TOKEN": held}).bearer == held.strip()


@pytest.mark.parametrize("held", ["", "\n", "two words", "caf\u00e9", "a" * (BEARER_CHARS_MAX + 1)])
def test_what_no_header_can_carry_is_refused_and_not_repeated(tmp_path: Path, held: str) -> None:
    file = tmp_path / "token"
    file.write_text(held, encoding="utf-8")
    for read in (partial(bearer_in_file, file), partial(bearer_in_variable, "TOKEN", {"TOKEN": held})):
        with pytest.raises(SettingsError, match="holds no token: it is one line of 1 to 4,096") as refused:
            read()
        assert not held.strip() or held.strip() not in refused.value.message


def test_file_that_is_too_long_is_refused_and_no_part_of_it_is_used(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("\n" * (FILE_CHARS_MAX - 3) + "s3cret")
    with pytest.raises(SettingsError, match="holds no token"):
        bearer_in_file(file)


def test_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(SettingsError, match="The variable TOKEN is not set"):
        bearer_in_variable("TOKEN", {})
