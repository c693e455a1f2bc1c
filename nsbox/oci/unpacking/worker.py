"""Unpacks one layer: ``main([FOLDER])``, started by keeper in the outer namespace.

Standard input is the blob. Standard output is a stream socket: the order comes on it and the report goes
back, and when whoever asked hangs up, the work is given up. The work itself is done by a child behind
``walls``, which has neither that socket nor anything else but the blob and a pipe. The folder is made beside
its place and gets its name when it is whole and on disk.
"""

import json
import os
import select
import signal
import sys
import time
from typing import Any, NamedTuple

from nsbox.kernel import libc, namespaces
from nsbox.oci.placing import Placing
from nsbox.oci.unpacking import box, walls
from nsbox.oci.unpacking.limits import Limits
from nsbox.oci.unpacking.refusal import Reason, Refused, reported

_BLOB, _SOCKET = 0, 1
_ORDER_BYTES = 4096
#: What the child may say. It is read by this process, and what is more is not.
_REPORT_BYTES = 16_384


class Order(NamedTuple):
    compression: str
    diff_id: str | None
    limits: Limits


class Gone(Exception):
    """Nobody waits for the result any more."""


def main(arguments: list[str]) -> int:
    """0 when a report was given, be it a refusal."""
    os.umask(0)
    try:
        raw = json.loads(os.read(_SOCKET, _ORDER_BYTES))
        order = Order(raw["compression"], raw["diff_id"], Limits(**raw["limits"]))
        report = _unpacked(arguments[0], order)
    except (Refused, OSError) as error:
        report = reported(error, "the layer's folder")
    except Gone:
        return 1
    try:
        os.write(_SOCKET, json.dumps(report).encode())
    except OSError:
        return 1
    return 0


def _unpacked(path: str, order: Order) -> dict[str, Any]:
    with Placing(path) as place:
        report = _filled(place.folder, order)
        # One for all files: an fsync for each would take longer than everything else.
        libc.syncfs(place.folder)
        place.publish()
        os.fsync(place.layers)
    return report


def _filled(folder: int, order: Order) -> dict[str, Any]:
    """Have the child fill the folder; its report. Raises ``Refused``, ``Gone``."""
    tree = walls.picture(folder)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    mapped, tell = os.pipe2(os.O_CLOEXEC)
    begun = time.monotonic()
    pid = libc.clone3(walls.FLAGS)
    if pid == 0:
        os.close(tell)
        os.close(reader)
        box.run(mapped, writer, tree, order.compression, order.diff_id, order.limits)
    try:
        for descriptor in (tree, writer, mapped):
            os.close(descriptor)
        namespaces.write_sandbox_maps(pid)
        os.write(tell, b"x")
        said = _listen(reader, begun + order.limits.seconds)
    finally:
        # It is process 1 of its pid namespace, so nothing of it can be left.
        os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        os.close(tell)
    cost = {"peak_kib": usage.ru_maxrss, "seconds": round(time.monotonic() - begun, 3)}
    try:
        # The kernel's limit of processor time is the same number, and ends the child without a word.
        if said is None or usage.ru_utime + usage.ru_stime >= order.limits.seconds:
            raise Refused(Reason.TIME, f"unpacking took more than {order.limits.seconds:g} s")
        return _understood(said, status) | cost
    except Refused as refused:
        refused.cost = cost
        raise


def _listen(reader: int, deadline: float) -> bytes | None:
    """What the child says until it ends; None when it does not in time. Raises ``Gone``."""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    poll.register(_SOCKET, select.POLLRDHUP)
    said = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        for descriptor, _ in poll.poll(left * 1000):
            if descriptor == _SOCKET:
                raise Gone
            piece = os.read(reader, _REPORT_BYTES)
            said += piece
            if not piece or len(said) > _REPORT_BYTES:
                return said


def _understood(said: bytes, status: int) -> dict[str, Any]:
    """The child's report. It has read the image, so that nothing it says is believed without a look."""
    last = said.rstrip(b"\n").rpartition(b"\n")[2]
    try:
        told = json.loads(last)
        if set(told) == {"reason", "detail"}:
            raise Refused(Reason(told["reason"]), str(told["detail"])[:1000])
        counts = {name: int(told[name]) for name in box.COUNTS}
        return {"diff_id": str(told["diff_id"])[:100], **counts}
    except (ValueError, TypeError, KeyError):
        detail = f"the unpacker ended with status {status}: {said[-500:].decode('utf-8', 'replace')}"
        raise Refused(Reason.INTERNAL, detail) from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
