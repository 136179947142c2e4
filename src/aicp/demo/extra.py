"""Whether what the demo's agents need is installed."""

from importlib.util import find_spec

from aicp.errors import SettingsError

_PACKAGES = {
    "PIL": "Pillow",
    "numpy": "numpy",
    "skimage": "scikit-image",
    "onnxruntime": "onnxruntime",
    "rapidocr": "rapidocr",
}


def check_extra() -> None:
    """Look for the packages of the extra `demo` without importing them; call it before any module that uses them.

    Raises:
        SettingsError: One is missing; the sentence names it and says how to get it.
    """
    missing = [package for module, package in _PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise SettingsError(f'The demo needs {", ".join(missing)}; install with `pip install "aicp[demo]"`.')
