"""Where the key for the AICP server comes from."""

import os
from pathlib import Path

from aicp.model.endpoint import leads_to_loopback

KEY_VARIABLE = "AICP_API_KEY"
DATA_DIR_VARIABLE = "AICP_DATA_DIR"
KEY_FILE = "admin.key"


def find_api_key(given: str | None, server_url: str) -> str | None:
    """The key given, else `AICP_API_KEY`, else, for a server on this machine, its admin key; None when there is none.

    Cheap, and asked again at every registration: the server may write its key after the agent has started.
    """
    if key := given or os.environ.get(KEY_VARIABLE):
        return key
    return _read_line(data_dir() / KEY_FILE) if leads_to_loopback(server_url) else None


def data_dir() -> Path:
    """`AICP_DATA_DIR`, else `aicp` in the user's data directory."""
    if chosen := os.environ.get(DATA_DIR_VARIABLE):
        return Path(chosen)
    if user_data := os.environ.get("XDG_DATA_HOME"):
        return Path(user_data) / "aicp"
    return Path.home() / ".local" / "share" / "aicp"


def _read_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
