"""Chain files: what they hold, checked, with every fault told by file and line."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from aicp.errors import Fault, InvalidChain
from aicp.model.chain import ChainSpec
from aicp.model.validation import check_chain, parse_chain
from aicp.runtime.documents import Document, read_document


def read_chain(path: Path) -> ChainSpec:
    """The chain in a JSON, YAML or TOML file, checked whole.

    Raises:
        SettingsError: The file cannot be read.
        InvalidChain: It holds no usable chain; every fault has its file and line.
    """
    document = read_document(path)
    try:
        return check_chain(parse_chain(document.value)).spec
    except InvalidChain as error:
        raise InvalidChain(placed(error.faults, document)) from None


def placed(faults: Sequence[Fault], document: Document) -> list[Fault]:
    """The same faults, told as a compiler would: `chain.yaml:12 /tasks/1/params`."""
    lines = document.lines()
    return [Fault(_place(fault.place, document.path, lines), fault.message) for fault in faults]


def _place(pointer: str, path: Path, lines: Mapping[str, int]) -> str:
    around = pointer
    while around and around not in lines:
        around = around.rpartition("/")[0]
    line = f":{lines[around]}" if around in lines else ""
    return f"{path}{line} {pointer}".rstrip()
