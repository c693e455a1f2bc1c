"""``nsbox doctor --seccomp``: the list is the policy."""

from __future__ import annotations

import json

from click.testing import CliRunner

from nsbox.cli import filters
from nsbox.cli.doctor import doctor
from nsbox.kernel import seccomp, syscalls


def test_every_call_of_both_machines_is_listed_once_with_its_verdict() -> None:
    listed = filters.calls()
    assert len({call.name for call in listed}) == len(listed)
    for machine in filters.MACHINES:
        shown = {
            (call.name, call.numbers[machine], call.verdict) for call in listed if machine in call.numbers
        }
        assert shown == set(seccomp.table(machine))
    assert {call.name for call in listed} == {
        name for machine in filters.MACHINES for name in syscalls.numbers(machine)
    }
    assert {call.name for call in listed if call.condition} == set(seccomp.CHECKED)
    assert all(call.reason for call in listed)


def test_conditions_are_words() -> None:
    told = {call.name: call.condition for call in filters.calls() if call.condition}
    assert told["clone"] == "flags & 0x7e020000: EPERM; else allow"
    assert told["ioctl"] == "request TIOCSTI TIOCLINUX TIOCSETD: EPERM; else allow"
    assert told["socketpair"] == "family AF_UNIX: allow; else EAFNOSUPPORT"
    assert told["socket"] == (
        "family AF_UNIX: allow; "
        "family AF_INET AF_INET6: (protocol 0 1 6 17 58: allow; else EPROTONOSUPPORT); "
        "family AF_NETLINK: (protocol 0 4 15: allow; else EPROTONOSUPPORT); else EAFNOSUPPORT"
    )


def test_it_is_printed_for_people_and_for_programs() -> None:
    text = CliRunner().invoke(doctor, ["--seccomp"])
    assert text.exit_code == 0
    rows = [line.split() for line in text.output.splitlines() if not line.startswith("#")]
    assert ["mount", "165", "40", "EPERM"] in rows
    assert ["open", "2", "-", "allow"] in rows
    document = json.loads(CliRunner().invoke(doctor, ["--seccomp", "--json"]).output)
    assert {"name": "read", "numbers": {"x86_64": 0, "aarch64": 63}}.items() <= document["calls"][0].items()
