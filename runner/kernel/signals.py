"""signal(7), from the C module that the standard signal module wraps: the enums around it cost each step 3 ms of imports."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import *  # noqa: F403  # the same names
else:
    from _signal import *  # noqa: F403
