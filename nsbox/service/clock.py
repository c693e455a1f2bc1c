"""Time as nsbox counts it.

Deadlines are seconds of CLOCK_BOOTTIME, which goes on while the host sleeps and which nobody can set, and
mean something only together with the boot's id. Wall time is for display.
"""

import time
from datetime import UTC, datetime

from nsbox.model.sandbox import Sandbox
from nsbox.model.usage import Moment
from nsbox.store import ledger

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


def moment() -> Moment:
    """Both of them, as the ledger takes them."""
    return ledger.now()


def stood(record: Sandbox) -> float:
    """How long a sandbox has been paused, in all, up to now."""
    lasting = 0.0 if record.paused_at is None else boottime() - record.paused_at
    return record.stood_s + lasting
