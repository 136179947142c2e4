"""Finds the agent that a command names."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

from aicp.agent.agent import Agent
from aicp.errors import SettingsError


def load_agent(target: str) -> Agent:
    """Import `module:attribute`, from the current directory too; the attribute may be dotted.

    Raises:
        SettingsError: There is no such module or attribute, the module fails to import, or it is no `Agent`.
    """
    module_name, colon, path = target.partition(":")
    if not colon or not module_name or not path:
        raise SettingsError(f"'{target}' names no agent: say module:attribute, such as eyes:agent.")
    found = _find(_import(module_name), module_name, path)
    if not isinstance(found, Agent):
        raise SettingsError(f"'{target}' is no Agent but {type(found).__name__}: make one with Agent(...).")
    return found


def _import(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise SettingsError(f"There is no module '{name}' in {here} or on the Python path.") from error
        raise SettingsError(f"Module '{name}' needs '{error.name}', which is not installed.") from error
    except Exception as error:
        told = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise SettingsError(f"Module '{name}' cannot be imported: {told}{_place(error)}.") from error


def _place(error: Exception) -> str:
    """Where in the user's code it happened, told in the sentence instead of a traceback."""
    if isinstance(error, SyntaxError):
        return ""  # it says so itself
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f" ({trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno})"


def _find(module: ModuleType, module_name: str, path: str) -> object:
    found: object = module
    for name in path.split("."):
        if not hasattr(found, name):
            raise SettingsError(f"Module '{module_name}' has no '{path}'{_agents_in(module)}.")
        found = getattr(found, name)
    return found


def _agents_in(module: ModuleType) -> str:
    names = sorted(name for name, value in vars(module).items() if isinstance(value, Agent))
    return f"; its agents are {', '.join(names)}" if names else "; it holds no Agent"
