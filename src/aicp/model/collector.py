"""How a process that reads large documents collects garbage and shares the interpreter lock."""

import gc
import sys

SWITCH_INTERVAL_S = 0.001


def quieten_collector() -> None:
    """Little of what a server or an agent holds is in cycles, and looking through all of it stops the loop for long.

    A young collection looks at 25,000 objects at most, about 4 ms; with Python's own thresholds 200,000 values that are
    read begin a collection of everything, about 50 ms. Threads that work on large documents give the interpreter lock
    to the loop within a millisecond, not within five. For the whole process.
    """
    gc.freeze()
    gc.set_threshold(5_000, 4, 500)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
