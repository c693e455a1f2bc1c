"""The zygote's rehearsal leaves nothing behind that a sandbox's init would be born with."""

import subprocess
import sys
from pathlib import Path

_REHEARSAL = """
import os, signal, sys
from nsbox.inside import init, rehearsal
from nsbox.kernel import libc
nothing = libc.Filter.__new__(libc.Filter)
mould = init.Mould(nothing, nothing, rehearsal._LITTLE, False)
init.cast(mould)
before = sorted(os.listdir("/proc/self/fd"))
folder = sys.argv[1]
rehearsal.rehearse(mould, folder)
assert os.listdir(folder) == []
assert sorted(os.listdir("/proc/self/fd")) == before, os.listdir("/proc/self/fd")
assert signal.set_wakeup_fd(-1) == -1
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("nothing left")
"""


def test_leaves_no_descriptor_no_child_and_no_folder(tmp_path: Path) -> None:
    # In a process of its own: it reaps every child, and pytest has some.
    done = subprocess.run(
        [sys.executable, "-c", _REHEARSAL, tmp_path], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("nothing left\n", "", 0)
