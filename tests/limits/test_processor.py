"""vcpus: what a sandbox gets of the processors."""

from __future__ import annotations

import json

import pytest

from tests.limits.conftest import Make, needs

#: Two processes that would take two processors; what they got of one, over five seconds.
BURN = """
import json, os, time
spans = []
for _ in range(2):
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
print(json.dumps(sum(used / wall for used, wall in figures)))
"""


def test_one_processor_is_one_processor(make: Make) -> None:
    """Within a tenth. The best of three: a busy host takes from a sandbox, and never gives to it."""
    sandbox = make(vcpus=1)
    needs(sandbox, "vcpus")
    shares: list[float] = []
    while len(shares) < 3 and not (shares and 0.9 <= shares[-1] <= 1.1):
        shares.append(json.loads(sandbox.out(["python3", "-c", BURN])))
    print(f"processors that a sandbox with one vcpu used with two busy processes: {shares}")
    assert max(shares) <= 1.1
    assert max(shares) >= 0.9


def test_two_processors_are_two(make: Make) -> None:
    """That the limit, and nothing else, held the one above."""
    sandbox = make(vcpus=2)
    needs(sandbox, "vcpus")
    assert sandbox.out("head -1 /sys/fs/cgroup/cpu.max") == "40000 20000\n"
    assert sandbox.out("cat /sys/fs/cgroup/cpu.weight") == "200\n"
    shares: list[float] = []
    while len(shares) < 3 and not (shares and shares[-1] > 1.2):
        shares.append(json.loads(sandbox.out(["python3", "-c", BURN])))
    print(f"processors that a sandbox with two vcpus used with two busy processes: {shares}")
    if max(shares) <= 1.2:
        pytest.skip("this host is too busy to give anybody more than one processor")
