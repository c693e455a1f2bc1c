"""Every system call, family, protocol, request and entry that the policy refuses, made in a sandbox through
the API: row 7 of the acceptance list.

What each is to be answered is in the policy's own table; that the refusals are the filter's, and not the
kernel's own, is shown in tests/kernel/test_seccomp.py.
"""

from __future__ import annotations

import errno
import json
import platform
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from nsbox.kernel import seccomp, syscalls
from tests.acceptance.plugin import Say
from tests.e2e.client import Sandbox
from tests.e2e.daemon import Daemon

MACHINE = platform.machine()

#: Each attempt is [label, number, arguments]; the answer is an errno, 0 where it went through.
_TRY = """
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
out = {}
for label, number, arguments in json.load(open("/tmp/attempts")):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(one) for one in arguments))
    if result == 0 and label.startswith("clone "): os._exit(0)
    out[label] = 0 if result >= 0 else ctypes.get_errno()
print(json.dumps(out))
"""
#: getpid by the 32-bit entry: mov eax, 20; int 0x80; ret.
_ENTRY_32 = """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=7)
page.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
"""
_NONSENSE = [-1] * 6
_NAMESPACES = (0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000)
_WORD = 1 << 32
_FAMILIES = 46  # AF_MAX of Linux 6.18


@pytest.fixture(scope="module")
def inside(daemon: Daemon) -> Iterator[Sandbox]:
    with daemon.api() as api:
        made = api.sandbox()
        yield made
        api.kill(made.id)


def attempts() -> list[tuple[str, int, list[int], int]]:
    """What is tried, and the errno that it is to get."""
    number = syscalls.numbers(MACHINE)
    wanted = {"EPERM": errno.EPERM, "ENOSYS": errno.ENOSYS}
    tried = [
        (name, own, _NONSENSE, wanted[verdict])
        for name, own, verdict in seccomp.table(MACHINE)
        if verdict in wanted
    ]
    newest = max(number.values())
    unknown = [*range(newest + 1, newest + 40), 1000, 0x4000_0000 | 39]
    tried += [(f"call {one}", one, _NONSENSE, errno.ENOSYS) for one in unknown]
    for family in set(range(_FAMILIES + 2)) - {1, 2, 10, 16}:
        for kind in (1, 2, 3, 5):
            tried.append(
                (
                    f"socket family {family} kind {kind}",
                    number["socket"],
                    [family, kind, 0],
                    errno.EAFNOSUPPORT,
                )
            )
        tried.append(
            (f"socketpair family {family}", number["socketpair"], [family, 1, 0, 0], errno.EAFNOSUPPORT)
        )
    for family in (2, 10):
        for protocol in set(range(1, 263)) - {1, 6, 17, 58}:
            tried.append(
                (
                    f"socket {family} protocol {protocol}",
                    number["socket"],
                    [family, 3, protocol],
                    errno.EPROTONOSUPPORT,
                )
            )
    for protocol in set(range(32)) - {0, 4, 15}:
        tried.append((f"netlink {protocol}", number["socket"], [16, 3, protocol], errno.EPROTONOSUPPORT))
    for half in (0, _WORD, -_WORD):
        for request in (0x5412, 0x541C, 0x5423):
            tried.append(
                (f"ioctl {request:#x} {half:#x}", number["ioctl"], [0, half | request, 0], errno.EPERM)
            )
    for flag in _NAMESPACES:
        tried.append((f"clone {flag:#x}", number["clone"], [flag | signal.SIGCHLD, 0, 0, 0, 0], errno.EPERM))
        tried.append((f"unshare {flag:#x}", number["unshare"], [flag], errno.EPERM))
    tried += [(f"unshare {flag:#x}", number["unshare"], [flag], errno.EPERM) for flag in (0x80, 1 << 40)]
    for persona in (0x40_0000, 0x6, 0x10_0000):
        tried.append((f"personality {persona:#x}", number["personality"], [persona], errno.EPERM))
    return tried


@pytest.mark.parametrize("user", ["root", "1000:1000"])
def test_all_that_is_refused_is_refused(inside: Sandbox, user: str, figure: Say) -> None:
    try:
        tried = attempts()
    except ValueError as unknown:
        pytest.skip(str(unknown))
    assert len({label for label, _, _, _ in tried}) == len(tried)
    inside.write("/tmp/attempts", json.dumps([one[:3] for one in tried]))
    answers: dict[str, Any] = json.loads(
        inside.out(["python3", "-c", _TRY], user=user, cwd="/", timeoutMs=120_000)
    )
    wrong = {
        label: (errno.errorcode.get(answers[label], answers[label]), errno.errorcode[wanted])
        for label, _, _, wanted in tried
        if answers[label] != wanted
    }
    if wrong:
        print(wrong)
    figure(7, tried=len(tried), bad=len(wrong))


@pytest.mark.skipif(MACHINE != "x86_64", reason="the 32-bit entry of x86")
@pytest.mark.parametrize("user", ["root", "1000:1000"])
def test_the_other_architecture_is_death(inside: Sandbox, user: str) -> None:
    result = inside.run(["python3", "-c", _ENTRY_32], user=user, cwd="/")
    if result["signal"] == "SEGV":
        pytest.skip("this kernel has no 32-bit entry")
    assert (result["outcome"], result["signal"]) == ("signaled", "SYS")


@pytest.mark.parametrize(
    "wish",
    [
        {"privileged": True},
        {"capabilities": ["CAP_SYS_ADMIN"]},
        {"seccomp": "unconfined"},
        {"noNewPrivs": False},
        {"securityOpt": ["no-new-privileges=false"]},
        {"masked": []},
        {"devices": ["/dev/kmsg"]},
        {"mounts": [{"source": "/", "target": "/mnt"}]},
    ],
    ids=lambda wish: next(iter(wish)),
)
def test_no_request_loosens_a_wall(inside: Sandbox, wish: dict[str, Any]) -> None:
    """What is not known is not passed over in silence: who asks is told that there is no such thing."""
    made = inside.api.request("POST", "/sandboxes", wish)
    assert made.status == 422, made
    assert next(iter(wish)) in str(made)
    assert inside.request("POST", "/exec", {"command": "true", **wish}).status == 422
