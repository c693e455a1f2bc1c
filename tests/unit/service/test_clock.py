from __future__ import annotations

import re
import time

from nsbox.service import clock


def test_boot_time_goes_on_and_counts_sleep() -> None:
    assert clock.boottime() <= clock.boottime()
    assert clock.boottime() >= time.monotonic() - 1  # they differ by the time asleep


def test_the_boot_has_a_name() -> None:
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", clock.boot_id())
    assert clock.boot_id() == clock.boot_id()


def test_wall_time() -> None:
    assert abs(clock.wall() - time.time()) < 5
