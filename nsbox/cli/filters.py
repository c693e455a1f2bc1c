"""``nsbox doctor --seccomp``: which system calls a sandbox may make, from the very table that its filter is
compiled of."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from nsbox.kernel import seccomp, syscalls
from nsbox.kernel.seccomp import AnyBit, Rule, Switch, Verdict

MACHINES = ("x86_64", "aarch64")

#: What numbers mean, by call and argument, where people know them by a name (the kernel's uapi headers).
_NAMES: dict[tuple[str, int], dict[int, str]] = {
    ("socket", 0): {1: "AF_UNIX", 2: "AF_INET", 10: "AF_INET6", 16: "AF_NETLINK"},
    ("socketpair", 0): {1: "AF_UNIX"},
    ("ioctl", 1): {0x5412: "TIOCSTI", 0x541C: "TIOCLINUX", 0x5423: "TIOCSETD"},
}
_ARGUMENTS: dict[tuple[str, int], str] = {
    ("clone", 0): "flags", ("unshare", 0): "flags", ("socket", 0): "family", ("socket", 2): "protocol",
    ("socketpair", 0): "family", ("ioctl", 1): "request", ("personality", 0): "persona",
}  # fmt: skip


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One system call. ``numbers`` by machine; a machine that has no such call is not in it. ``condition`` is
    what ``checked`` depends on."""

    name: str
    numbers: dict[str, int]
    verdict: str
    condition: str = ""
    reason: str


def calls() -> list[Call]:
    """All that nsbox knows, in the table's order. What is not here gets ENOSYS."""
    numbers = {machine: syscalls.numbers(machine) for machine in MACHINES}

    def one(name: str, verdict: str, reason: str, condition: str = "") -> Call:
        own = {machine: table[name] for machine, table in numbers.items() if name in table}
        return Call(name=name, numbers=own, verdict=verdict, condition=condition, reason=reason)

    groups = ((seccomp.ALLOWED, "allow"), (seccomp.REFUSED, "EPERM"), (seccomp.ABSENT, "ENOSYS"))
    listed = [
        one(name, verdict, reason)
        for group, verdict in groups
        for reason, names in group.items()
        for name in names.split()
    ]
    checked = [
        one(name, "checked", "decided by their arguments", in_words(name, rule))
        for name, rule in seccomp.CHECKED.items()
    ]
    return listed + checked


def in_words(call: str, rule: Rule) -> str:
    """What becomes of a call, by its arguments."""
    if isinstance(rule, Verdict):
        return "allow" if rule is Verdict.ALLOW else rule.name
    what = _ARGUMENTS.get((call, rule.argument), f"argument {rule.argument}")
    if isinstance(rule, AnyBit):
        half = f"{what} >> 32" if rule.high else what
        return (
            f"{half} & {rule.mask:#x}: {in_words(call, rule.verdict)}; else {in_words(call, rule.otherwise)}"
        )
    return _switch(call, rule, what)


def _switch(call: str, rule: Switch, what: str) -> str:
    names = _NAMES.get((call, rule.argument), {})
    by_outcome: dict[str, list[str]] = {}
    for value, chosen in rule.cases.items():
        shown = names.get(value) or (str(value) if value < 1024 else f"{value:#x}")
        by_outcome.setdefault(in_words(call, chosen), []).append(shown)
    parts = [
        f"{what} {' '.join(values)}: {f'({outcome})' if ';' in outcome else outcome}"
        for outcome, values in by_outcome.items()
    ]
    return "; ".join([*parts, f"else {in_words(call, rule.otherwise)}"])


def render(listed: list[Call]) -> Iterator[str]:
    """For people: a heading for each reason, a line for each call."""
    width = max(len(call.name) for call in listed)
    machines = "  ".join(f"{machine:>7}" for machine in MACHINES)
    yield f"{'system call':<{width}}  {machines}  verdict  condition"
    reason = ""
    for call in listed:
        if call.reason != reason:
            reason = call.reason
            yield f"# {reason}"
        numbers = "  ".join(f"{call.numbers.get(machine, '-'):>7}" for machine in MACHINES)
        yield f"{call.name:<{width}}  {numbers}  {call.verdict:<7}  {call.condition}".rstrip()
    yield "# every other number: ENOSYS; every other architecture's entry: the process is killed (SIGSYS)"
