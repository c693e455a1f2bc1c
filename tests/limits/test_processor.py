"""vcpus: what a sandbox gets of the processors."""

from __future__ import annotations

import json

import pytest

from tests.e2e.client import Sandbox
from tests.limits.conftest import Make, needs

#: Four processes that would take all processors there are; what they got, in processors, over five seconds,
#: and in how many periods of the cgroup the kernel stopped them.
BURN = """
import json, os, time
def throttled():
    with open("/sys/fs/cgroup/cpu.stat") as file:
        return int(dict(line.split() for line in file)["nr_throttled"])
spans, before = [], throttled()
for _ in range(4):
    r, w = os.pipe()
    if os.fork() == 0:
        begun, spent = time.monotonic(), time.process_time()
        while time.monotonic() - begun < 5:
            pass
        os.write(w, json.dumps([time.process_time() - spent, time.monotonic() - begun]).encode())
        os._exit(0)
    os.close(w)
    spans.append(r)
figures = [json.loads(os.read(r, 100)) for r in spans]
print(json.dumps([sum(used / wall for used, wall in figures), throttled() - before]))
"""


def burnt(sandbox: Sandbox) -> tuple[float, int]:
    """Processors that were used, and periods in which no more of them were given."""
    share, throttled = json.loads(sandbox.out(["python3", "-c", BURN]))
    return share, throttled


def test_one_processor_is_one_processor(make: Make) -> None:
    """Within a tenth. The best of three: a busy host takes from a sandbox, and never gives to it.

    A host so busy that nobody gets more than one processor would prove nothing: so the kernel is asked
    whether it was the limit that held them.
    """
    sandbox = make(vcpus=1)
    needs(sandbox, "vcpus")
    seen: list[tuple[float, int]] = []
    while len(seen) < 3 and not (seen and 0.9 <= seen[-1][0] <= 1.1):
        seen.append(burnt(sandbox))
    print(f"processors that a sandbox with one vcpu used with four busy processes, and periods cut: {seen}")
    assert max(share for share, _ in seen) <= 1.1
    assert max(share for share, _ in seen) >= 0.9
    assert max(throttled for _, throttled in seen) >= 50, "of some 250 periods"


def test_two_processors_are_two(make: Make) -> None:
    """That the limit, and nothing else, held the one above."""
    sandbox = make(vcpus=2)
    needs(sandbox, "vcpus")
    assert sandbox.out("head -1 /sys/fs/cgroup/cpu.max") == "40000 20000\n"
    assert sandbox.out("cat /sys/fs/cgroup/cpu.weight") == "200\n"
    shares: list[float] = []
    while len(shares) < 3 and not (shares and shares[-1] > 1.2):
        shares.append(burnt(sandbox)[0])
    print(f"processors that a sandbox with two vcpus used with four busy processes: {shares}")
    if max(shares) <= 1.2:
        pytest.skip("this host is too busy to give anybody more than one processor")
