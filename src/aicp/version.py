"""The version of AICP, read by the build and by `aicp version`."""

__version__ = "0.1.0"
