"""Why a layer is not unpacked: a closed set, since clients are told."""

import errno
from enum import StrEnum
from typing import Any


class Reason(StrEnum):
    """Whose fault it is: all but the last five are the image's."""

    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    DIGEST = "digest"
    UNSUPPORTED = "unsupported"
    NAME = "name"
    LINK = "link"
    OWNER = "owner"
    XATTRS = "xattrs"
    HEADERS = "headers"
    BYTES = "bytes"
    RATIO = "ratio"
    ENTRIES = "entries"
    DEPTH = "depth"
    TIME = "time"
    MEMORY = "memory"
    # not the image's
    EXISTS = "exists"
    BUSY = "busy"
    NO_SPACE = "no_space"
    HOST = "host"
    INTERNAL = "internal"


class Refused(Exception):
    """The layer is not unpacked. ``detail`` is a sentence, bounded, that may quote the image."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail
        #: What was spent until then, where that is known: ``peak_kib``, ``seconds``.
        self.cost: dict[str, float] = {}


def shown(name: bytes) -> str:
    """A name of the image's for a sentence: printable, on one line, short."""
    text = ascii(name[:200].decode("utf-8", "backslashreplace"))
    return text if len(name) <= 200 else f"{text}..."


#: What the image can be blamed for, and the full disk. Anything else that a call says is the host's.
_BLAME = {
    errno.ENAMETOOLONG: Reason.NAME,
    errno.EILSEQ: Reason.NAME,  # a file system that wants UTF-8
    errno.EMLINK: Reason.LINK,
    errno.EFBIG: Reason.BYTES,
    errno.ENOSPC: Reason.NO_SPACE,
    errno.EDQUOT: Reason.NO_SPACE,
}


def refusal(error: OSError, about: str) -> Refused:
    """What a failed call means for the layer."""
    return Refused(_BLAME.get(error.errno or 0, Reason.HOST), f"{about}: {error.strerror or error}")


def reported(error: Exception, about: str) -> dict[str, Any]:
    """How a worker tells that it failed: ``reason``, ``detail``, and what was spent until then."""
    if isinstance(error, OSError):
        error = refusal(error, about)
    if isinstance(error, Refused):
        return {"reason": error.reason, "detail": error.detail, **error.cost}
    if isinstance(error, MemoryError):
        return {"reason": Reason.MEMORY, "detail": f"{about} takes too much memory"}
    # A fault of nsbox: what a traceback would begin with.
    return {"reason": Reason.INTERNAL, "detail": f"{type(error).__name__}: {error}"[:500]}
