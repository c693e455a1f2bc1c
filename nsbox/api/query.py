"""The query string, read from its raw bytes: the names of files need not be UTF-8, and a parameter that is
unknown, doubled or broken is named instead of being dropped."""

from __future__ import annotations

import re

from nsbox.model.errors import Code, Problem

_BROKEN_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")
_MODE = re.compile(r"0?[0-7]{1,4}")
MAX_PATH_BYTES = 4_095  # PATH_MAX with its NUL, path_resolution(7)
MAX_NAME_BYTES = 255  # NAME_MAX

Query = dict[str, bytes]


def parse(raw: bytes, known: frozenset[str]) -> Query:
    """The parameters. ``+`` is a space, as every form encoder writes it; a plus is ``%2B``."""
    query: Query = {}
    for pair in raw.split(b"&"):
        if not pair:
            continue
        raw_name, _, raw_value = pair.partition(b"=")
        name = _decode(raw_name).decode("utf-8", "replace")
        if name not in known:
            expected = ", ".join(sorted(known)) or "none"
            raise Problem(
                Code.INVALID_REQUEST,
                f"the query parameter {name[:80]!r} is not known here (known: {expected})",
                field=name[:80],
            )
        if name in query:
            raise Problem(Code.INVALID_REQUEST, f"the query parameter {name!r} is given twice", field=name)
        query[name] = _decode(raw_value, name)
    return query


def _decode(raw: bytes, field: str | None = None) -> bytes:
    if _BROKEN_PERCENT.search(raw):
        raise Problem(Code.INVALID_REQUEST, "a % in the query is not followed by two hex digits", field=field)
    return _PERCENT.sub(lambda match: bytes.fromhex(match[1].decode()), raw.replace(b"+", b" "))


def path_of(query: Query) -> bytes:
    """The parameter ``path``, seen to be one that the kernel can take."""
    if "path" not in query:
        raise Problem(
            Code.INVALID_FIELD,
            "the query parameter path is missing",
            field="path",
            remedy="add ?path=/absolute/path",
        )
    return check_path(query["path"], "path")


def check_path(path: bytes, field: str) -> bytes:
    """An absolute path within the kernel's bounds. Where it leads is decided inside the sandbox."""
    if b"\0" in path:
        raise Problem(Code.INVALID_FIELD, "a path cannot have a NUL", field=field)
    if not path.startswith(b"/"):
        raise Problem(
            Code.INVALID_FIELD, "a path must be absolute", field=field, remedy="begin it with a slash"
        )
    if len(path) > MAX_PATH_BYTES:
        raise Problem(Code.INVALID_FIELD, f"a path has at most {MAX_PATH_BYTES} bytes", field=field)
    if any(len(part) > MAX_NAME_BYTES for part in path.split(b"/")):
        raise Problem(
            Code.INVALID_FIELD, f"each part of a path has at most {MAX_NAME_BYTES} bytes", field=field
        )
    return path


def flag(query: Query, name: str) -> bool:
    """A parameter that is ``true`` or ``false``; absent means false."""
    value = query.get(name, b"false")
    if value not in (b"true", b"false"):
        raise Problem(Code.INVALID_FIELD, f"{name} is true or false", field=name)
    return value == b"true"


def text(query: Query, name: str) -> str | None:
    """A parameter of plain text; what is not UTF-8 cannot match anything and is shown as U+FFFD."""
    value = query.get(name)
    return None if value is None else value.decode("utf-8", "replace")


def mode(value: str | None) -> int | None:
    """Permission bits as octal digits, ``0644`` or ``755``."""
    if value is None:
        return None
    if not _MODE.fullmatch(value):
        raise Problem(Code.INVALID_FIELD, "mode is octal digits such as 0644", field="mode")
    return int(value, 8)
