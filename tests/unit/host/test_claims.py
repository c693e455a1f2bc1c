"""What a daemon claims before it starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nsbox.cli import local
from nsbox.host import claims
from nsbox.model.errors import HostProblem


def test_commands_wait_for_a_daemon_that_is_not_ready_yet(tmp_path: Path) -> None:
    """And do not ask where an earlier one listened."""
    (tmp_path / "address").write_text("http://127.0.0.1:1\n")
    lock = claims.lock(str(tmp_path))
    claims.forget_address(str(tmp_path))
    claims.forget_address(str(tmp_path))
    try:
        with (
            pytest.raises(HostProblem, match="does not say where it listens") as caught,
            local.client_of_this_host({"NSBOX_STATE_DIR": str(tmp_path), "HOME": str(tmp_path)}),
        ):
            pass
    finally:
        os.close(lock)
    assert "until it is ready" in (caught.value.remedy or "")
