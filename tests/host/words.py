"""What the rig says, and how it fails."""

from __future__ import annotations

import sys


class RigError(Exception):
    """The rig itself failed, not a test in the machine."""


class BootHung(RigError):
    """A boot that came to nothing, or to a panic, as an emulated one now and then does. Worth another try."""


def say(text: str) -> None:
    print(f"test-host: {text}", file=sys.stderr, flush=True)
