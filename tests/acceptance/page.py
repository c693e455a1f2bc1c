"""The table of ``docs/promises.md``, made from the rows: ``sh scripts/acceptance --page`` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.acceptance.rows import ROWS, Row

PAGE: Final = Path(__file__).parents[2] / "docs" / "promises.md"
_BEGIN: Final = (
    "<!-- the rows of tests/acceptance/rows.py; `sh scripts/acceptance --page` writes them anew -->\n"
)
_END: Final = "<!-- end of the rows -->\n"

#: What each row promises, as a figure: bounds that a test holds, not what was once seen.
PROMISES: Final = {
    1: (
        "0 files beside a layer changed by 60 and more named hostile archives, and by those fuzzed in "
        "the time there is; nothing left of a layer that is refused"
    ),
    2: (
        "0 bytes of the host read or written in 2,000 and more operations of the file API, while two "
        "processes swap files, folders and links under it"
    ),
    3: (
        "3 descriptors, an environment of the template's names alone, and 0 of the files of /proc/1 "
        "and of nsbox's own processes shown to a command"
    ),
    4: (
        "0 sandboxes and commands lost, doubled or left over after `kill -9` of api, at its steps and "
        "at any time; another api is ready within 4 s, and every sandbox that ran goes on, "
        "whatever the inits of others say that theirs ran"
    ),
    5: (
        "0 processes survive `kill -9` of keeper or of the supervisor: all are gone within 2 s, and "
        "the record calls each sandbox lost"
    ),
    6: (
        "0 answers other than 404, and none told from that for an id that never was, to another "
        "tenant's ids on every route (403 where a route is an administrator's)"
    ),
    7: (
        "every system call, socket family, protocol, namespace and architecture that the policy "
        "refuses is answered as the table says: 60 and more calls with EPERM, unknown ones with "
        "ENOSYS, 32-bit code ended"
    ),
    8: (
        "0 addresses inside reached: loopback, metadata, LAN, the host, other sandboxes, by IPv4, "
        "IPv6, v4-mapped, NAT64, 6to4, and by names that are bound anew; TCP, UDP and ICMP"
    ),
    9: (
        "0 processes, mounts, cgroups, folders, sockets or descriptors for each sandbox left of 400 "
        "(2,000 with `NSBOX_SOAK=2000`); memory of api within 4 MiB and 1 KiB for each, of keeper a "
        "quarter of that"
    ),
    10: (
        "a fork bomb is gone within 5 s; what overruns memory, storage or inodes ends, and its "
        "sandbox lives; of 1 GB of output 0 bytes are unaccounted for, with api below 300 MiB and its "
        "logs below 64 MiB; a neighbour's p99 is at most twice what it was"
    ),
    11: (
        "a head that is not there after `header_timeout_s`, a body that stands still and a reader "
        "that stalls cost their connection, and nothing else"
    ),
    12: (
        "0 faults, and 0 answers that the OpenAPI document does not allow, to what schemathesis asks "
        "in all phases"
    ),
    13: (
        "0 mismatches between a daemon and a model of it, over random histories with a `kill -9` of "
        "api in them"
    ),
    14: (
        "0 descriptors, mounts, folders or processes left after a system call of api or keeper fails "
        "(ENOMEM, ENOSPC, EMFILE, EIO, …); the answer blames the host, and the next request works"
    ),
    15: (
        "0 left over of a create that fails at any step; the same create, delete, pause or resume 8 "
        "times at once has 1 effect"
    ),
    16: ("bombs are refused within the caps, with at most 100 MiB of memory"),
    17: (
        "0 sandboxes ended more than a second early or late when a clock is set by an hour, a day or "
        "ten years, when the host sleeps, and after it was booted anew"
    ),
    18: (
        "0 answers other than 4xx (501 for what HTTP has and nsbox has not) to malformed requests; "
        "the daemon lives"
    ),
}


def _rows() -> Iterator[str]:
    yield "| # | what is tried | what is promised | tests | `sh scripts/defences` |\n|---|---|---|---|---|\n"
    for row in ROWS:
        shown = "<br>".join(f"`{one}`" for part in row.parts for one in part.tests)
        defences = "<br>".join(f"`{one}`" for one in row.defences)
        yield f"| {row.number} | {_tried(row)} | {PROMISES[row.number]} | {shown} | {defences} |\n"


def _tried(row: Row) -> str:
    parts = [part.name for part in row.parts if part.name]
    return row.name + (f": {', '.join(parts)}" if parts else "")


def written(page: str) -> str:
    """The page with its table as it should be."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{''.join(_rows())}\n{_END}{after}"
