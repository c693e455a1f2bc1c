"""How a command's end becomes an exit status, as in a shell."""

from __future__ import annotations

import contextlib
import signal

TIMED_OUT = 124
FAILED = 125


def of(exit_code: int | None, signal_name: str | None, outcome: str | None) -> int:
    """The command's own; 128+N when signal N ended it; 124 timed out; 125 nsbox itself failed."""
    if outcome == "timedOut":
        return TIMED_OUT
    if exit_code is not None:
        return exit_code
    if signal_name is not None:
        with contextlib.suppress(KeyError):
            return 128 + signal.Signals[f"SIG{signal_name.removeprefix('SIG')}"].value
    return 128 + signal.SIGKILL if outcome == "oom" else FAILED
