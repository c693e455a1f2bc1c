from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from nsbox.kernel.spread import spread


def test_what_chattr_would_do(tmp_path: Path) -> None:
    """Twice is no error; what had other flags keeps them."""
    if shutil.which("lsattr") is None:
        pytest.skip("no lsattr")
    if not spread(str(tmp_path)):
        pytest.skip("this file system has no such flag")
    assert spread(str(tmp_path))
    shown = subprocess.run(["lsattr", "-d", str(tmp_path)], capture_output=True, text=True, check=True)
    assert "T" in shown.stdout.split()[0]


def test_where_there_is_no_such_flag(tmp_path: Path) -> None:
    assert not spread("/proc/self")
    assert not spread(str(tmp_path / "nothing"))
