"""What processes say about themselves on a busy machine, where any of them may have stood still for a second."""

STOOD_STILL = "process stood still, timers about others moved"


def without_standstills(told: str) -> str:
    """What a process said, line by line, without the warnings that it stood still."""
    return "".join(line for line in told.splitlines(keepends=True) if STOOD_STILL not in line)
