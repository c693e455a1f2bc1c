"""The walls as data, held against the list of what they are to be."""

from __future__ import annotations

import resource

from nsbox.plan import baseline
from nsbox.wire.framing import decode, encode
from nsbox.wire.messages import TO_BLANK


def test_what_is_hidden() -> None:
    hidden = {
        "acpi",
        "asound",
        "interrupts",
        "kcore",
        "keys",
        "latency_stats",
        "sched_debug",
        "scsi",
        "timer_list",
        "timer_stats",
    }
    expected = {f"/proc/{name}" for name in hidden} | {"/sys/firmware", "/sys/devices/virtual/powercap"}
    assert set(baseline.MASKED) >= expected


def test_what_cannot_be_written() -> None:
    assert set(baseline.READONLY) >= {
        f"/proc/{name}" for name in ("bus", "fs", "irq", "sys", "sysrq-trigger")
    }


def test_the_devices_and_no_more() -> None:
    assert set(baseline.DEVICES) == {"null", "zero", "full", "random", "urandom", "tty"}


def test_no_nested_namespaces() -> None:
    kinds = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")
    assert all(baseline.BUDGETS[f"max_{kind}_namespaces"] == 0 for kind in kinds)


def test_no_core_dumps_and_no_real_time() -> None:
    for number in (resource.RLIMIT_CORE, resource.RLIMIT_RTPRIO):
        assert baseline.RLIMITS[number] == (0, 0)
    assert all(0 <= soft <= hard for soft, hard in baseline.RLIMITS.values())


def test_as_it_is_told_to_a_blank() -> None:
    order = baseline.prepare()
    assert decode(encode(order), TO_BLANK) == order
    assert f"{resource.RLIMIT_CORE}=0:0" in order.rlimits
    assert "max_user_namespaces=0" in order.budgets
