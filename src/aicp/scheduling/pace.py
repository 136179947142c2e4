"""How soon tasks that come together are served."""

import msgspec


class Pace(msgspec.Struct, frozen=True, gc=False):
    """How soon tasks of one capability and priority would be served if they came now.

    Attributes:
        first_s: When the first one starts, seconds from now; less than 0 as far as slots are free for more than one.
        each_s: From one start to the next, seconds.
        task_s: How long one usually takes, seconds.
        slots: How many run at a time.
    """

    first_s: float
    each_s: float
    task_s: float
    slots: float
