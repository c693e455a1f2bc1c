"""Why a layer is not unpacked: a closed set, since clients are told."""

from enum import StrEnum


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


def shown(name: bytes) -> str:
    """A name of the image's for a sentence: printable, on one line, short."""
    text = ascii(name[:200].decode("utf-8", "backslashreplace"))
    return text if len(name) <= 200 else f"{text}..."
