"""What `aicp demo` cannot use is one sentence, before any agent is started."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("rapidocr", reason="needs aicp[demo]")

from aicp.cli.main import main


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr of a demo that ends with 2 and starts nothing."""
    assert main(["demo", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    return told.err.rstrip("\n")


def test_path_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, "--image", "cat.png") == (
        "There is no such picture: cat.png cannot be read (no such file or directory); check the path"
    )


def test_directory(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pictures").mkdir()

    assert refusal(capsys, "--image", "pictures") == (
        "This is no picture: pictures is no file; give the path of a picture"
    )


def test_file_that_is_no_picture(capsys: pytest.CaptureFixture[str]) -> None:
    Path("notes.png").write_text("buy milk")

    assert refusal(capsys, "--image", "notes.png").startswith("This is no picture: notes.png is not in a format")


def test_picture_of_200_mb_is_not_even_read(capsys: pytest.CaptureFixture[str]) -> None:
    with Path("heavy.png").open("wb") as file:
        file.truncate(200_000_000)

    assert refusal(capsys, "--image", "heavy.png") == (
        "The picture is too heavy: heavy.png has more than 25 MiB; save it smaller or as JPEG and try again"
    )


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/cat.png", "file:///etc/passwd", "http://", "http://me:pw@here/a.png"])
def test_url_that_nobody_could_fetch(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no address that can be fetched" in refusal(capsys, "--image", url)


def test_directory_for_output_that_is_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("taken").write_text("")

    assert refusal(capsys, "--out", "taken/deeper") == (
        "taken/deeper cannot be written (not a directory); choose another --out."
    )


def test_extra_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", None)

    assert refusal(capsys) == 'The demo needs rapidocr; install with `pip install "aicp[demo]"`.'
