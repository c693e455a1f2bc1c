"""``/files``. Bytes go and come as they are; JSON is for what is about them."""

from __future__ import annotations

from nsbox.client.call import OCTETS, Call, Request, query, reader
from nsbox.client.types.file import Listing, Removed, Written

Path = str | bytes
_LISTED, _SILENCE = 120.0, 60.0
written = reader(Written)


def get_all(here: str, path: Path, *, recursive: bool = False) -> Call[Listing]:
    """What is in a directory."""
    asked = query(path=path, list=True, recursive=recursive)
    return Call("GET", f"{here}/files", reader(Listing), query=asked, safe=True, patience=_LISTED)


def remove(here: str, path: Path, *, recursive: bool = False) -> Call[Removed]:
    """Remove a file, a symlink or an empty directory; with ``recursive`` a directory with all in it."""
    shown = path if isinstance(path, str) else path.decode("utf-8", "replace")
    return Call(
        "DELETE",
        f"{here}/files",
        reader(Removed),
        query=query(path=path, recursive=recursive),
        safe=True,
        patience=_LISTED,
        again=lambda: Removed(path=shown),
    )


def download(here: str, path: Path) -> Request:
    """The bytes of a file."""
    asked = query(path=path, raw=True)
    return Request("GET", f"{here}/files?{asked}", (("Accept", OCTETS),), None, _SILENCE)


def upload(here: str, path: Path, mode: str | None) -> Request:
    """The request for a file whose bytes are to be added. ``mode``: octal digits."""
    asked = query(path=path, mode=mode)
    headers = (("Accept", "application/json"), ("Content-Type", OCTETS))
    return Request("PUT", f"{here}/files?{asked}", headers, None, _SILENCE)
