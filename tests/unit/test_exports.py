"""The public names are exactly those in `__all__`, each documented, and importing them is light."""

import inspect
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

import aicp
import aicp.testing

ADAPTERS = (
    "aiohttp",
    "asyncpg",
    "jsonschema_rs",
    "litestar",
    "opentelemetry",
    "prometheus_client",
    "rich",
    "sqlite3",
    "typer",
    "uvicorn",
    "yaml",
)
MODULES = pytest.mark.parametrize("module", [aicp, aicp.testing], ids=["aicp", "aicp.testing"])


def in_a_new_process(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout


def defined_in(module: types.ModuleType) -> set[str]:
    """Its names that lead to something else than a part of the package."""
    return {name for name, value in vars(module).items() if not (name.startswith("_") or inspect.ismodule(value))}


@MODULES
def test_the_public_names_are_exactly_those_in_all(module: types.ModuleType) -> None:
    assert defined_in(module) | ({"__version__"} & set(vars(module))) == set(module.__all__)


@MODULES
def test_the_public_names_are_listed_once_and_in_order(module: types.ModuleType) -> None:
    assert module.__all__ == sorted(set(module.__all__))


@pytest.mark.parametrize("name", [name for name in [*aicp.__all__, *aicp.testing.__all__] if name != "__version__"])
def test_every_public_name_is_documented(name: str) -> None:
    public = getattr(aicp, name, None) or getattr(aicp.testing, name)
    doc = vars(public).get("__doc__") if inspect.isclass(public) else public.__doc__
    assert doc, f"{name} has a docstring of its own"
    assert doc.strip().splitlines()[0].endswith((".", ":"))


@pytest.mark.parametrize("name", [name for name in aicp.__all__ if inspect.isclass(getattr(aicp, name))])
def test_every_public_method_is_documented(name: str) -> None:
    public = getattr(aicp, name)
    bare = [
        attribute
        for attribute, value in vars(public).items()
        if not attribute.startswith("_")
        and (inspect.isfunction(value) or isinstance(value, property | classmethod | staticmethod))
        and not inspect.getdoc(value)
    ]
    assert bare == []


def test_the_version_is_one() -> None:
    assert [part.isdecimal() for part in aicp.__version__.split(".")] == [True, True, True]


def test_importing_aicp_loads_no_adapter() -> None:
    code = f"import json, sys; import aicp; print(json.dumps([name for name in {ADAPTERS!r} if name in sys.modules]))"
    assert json.loads(in_a_new_process(code)) == []


def test_the_package_says_that_it_is_typed() -> None:
    (package,) = aicp.__path__
    assert (Path(package) / "py.typed").read_text() == ""
