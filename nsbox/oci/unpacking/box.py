"""The child that reads a layer, from its first instruction to its report."""

import gc
import json
import os
import resource
import signal
from typing import NoReturn

from nsbox.inside import privileges
from nsbox.kernel import namespaces
from nsbox.oci.unpacking import walls
from nsbox.oci.unpacking.archive import Archive
from nsbox.oci.unpacking.limits import Limits
from nsbox.oci.unpacking.refusal import Reason, Refused, reported
from nsbox.oci.unpacking.stream import Stream
from nsbox.oci.unpacking.tree import Tree

#: The numbers of a report.
COUNTS = ("entries", "bytes", "devices_skipped", "xattrs_dropped")


def run(mapped: int, report: int, tree: int, way: str, diff_id: str | None, limits: Limits) -> NoReturn:
    """Unpack standard input into ``tree`` and write one line to ``report``."""
    try:
        said = json.dumps(_tried(mapped, report, tree, way, diff_id, limits))
        os.write(1, f"\n{said}\n".encode())
    finally:
        os._exit(0)


def _tried(
    mapped: int, report: int, tree: int, way: str, diff_id: str | None, limits: Limits
) -> dict[str, str | int]:
    try:
        _enclose(mapped, report, tree, limits)
        return unpack(way, diff_id, limits)
    except Exception as error:
        return reported(error, "unpacking")


def _enclose(mapped: int, report: int, tree: int, limits: Limits) -> None:
    if os.read(mapped, 1) != b"x":
        raise OSError(0, "the caller is gone")
    namespaces.become_root()
    privileges.die_with_parent(signal.SIGKILL)
    for stream in (1, 2):
        os.dup2(report, stream)
    gc.disable()  # nothing here goes in circles, and a collection would copy the pages shared with the parent
    walls.enter(tree)
    walls.confine(limits)


def unpack(way: str, diff_id: str | None, limits: Limits) -> dict[str, str | int]:
    """Unpack standard input into the current folder. Raises ``Refused``."""
    stream = Stream(0, way, limits)
    archive = Archive(stream, limits)
    tree = Tree(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), stream, limits)
    for entry in archive:
        tree.add(entry)
    stream.drain()
    if diff_id is not None and stream.diff_id != diff_id:
        raise Refused(Reason.DIGEST, f"the layer is {stream.diff_id}, and should be {diff_id}")
    if diff_id is None and not archive.ended:
        # With the digest it would be as whole as its maker left it.
        raise Refused(Reason.TRUNCATED, "the archive has no end mark")
    tree.finish()
    return {
        "diff_id": stream.diff_id,
        "entries": archive.entries,
        "bytes": tree.bytes,
        "devices_skipped": tree.devices_skipped,
        "xattrs_dropped": tree.xattrs_dropped,
        "peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
