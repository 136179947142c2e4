"""Shows a page in the user's browser, where there is one."""

import os
import sys
import webbrowser

_SCREENS = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
_HAVE_SCREENS = frozenset({"darwin", "win32"})


def has_screen() -> bool:
    """True where a window can appear: a browser for terminals would take this one over."""
    return sys.platform in _HAVE_SCREENS or any(os.environ.get(name) for name in _SCREENS)


def open_in_browser(url: str) -> bool:
    """Open it, and say whether there was a browser; may take some seconds."""
    try:
        return has_screen() and webbrowser.open(url)
    except (webbrowser.Error, OSError):
        return False
