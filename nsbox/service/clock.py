"""Time as nsbox counts it.

Deadlines are seconds of CLOCK_BOOTTIME, which goes on while the host sleeps and which nobody can set, and
mean something only together with the boot's id. Wall time is for display.
"""

import time
from datetime import UTC, datetime

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def boottime() -> float:
    """Seconds since the host was booted, time asleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Names this boot of the host."""
    with open(_BOOT_ID, encoding="ascii") as file:
        return file.read().strip()


def wall() -> float:
    """Seconds since the epoch."""
    return datetime.now(UTC).timestamp()
