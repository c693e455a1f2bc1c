"""What all answers have in common."""

from __future__ import annotations

import msgspec


class Answered(msgspec.Struct, frozen=True, rename="camel"):
    """An answer of nsbox's. Members that are not known here are of a newer version, and left alone; those
    that an older one does not give have a default."""
