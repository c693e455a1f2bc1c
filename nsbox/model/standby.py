"""What a sandbox does by itself when nobody needs it, and when somebody comes. Pure data, no I/O."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class OnExpiry(StrEnum):
    """What becomes of a sandbox whose time is over."""

    KILL = "kill"
    PAUSE = "pause"  # it has its whole time again when it is resumed


class AutoPause(msgspec.Struct, frozen=True, kw_only=True):
    """Pause when it has been idle for so long. ``ignore_processes``: background processes do not keep it
    from being idle, unless somebody follows their output; commands of exec always do."""

    idle_ms: int
    ignore_processes: bool = False


class Standby(msgspec.Struct, frozen=True, kw_only=True):
    """``auto_resume``: the next request that needs it running resumes it, and waits for that."""

    auto_pause: AutoPause | None = None
    on_expiry: OnExpiry = OnExpiry.KILL
    auto_resume: bool = False

    @property
    def pauses(self) -> bool:
        """It may be paused without being asked for: that takes a freezer."""
        return self.auto_pause is not None or self.on_expiry is OnExpiry.PAUSE
