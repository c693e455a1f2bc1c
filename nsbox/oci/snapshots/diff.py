"""Tells what a sandbox or a snapshot has changed: ``main([ANY LAYER])``, started by keeper in the outer
namespace.

Standard input is a stream socket: the order comes on it, and when whoever asked hangs up, the work is given
up. The answer goes to standard output, a file.
"""

import base64
import binascii
import json
import os
from typing import Any, NamedTuple

from nsbox.oci.placing import FOLDER
from nsbox.oci.snapshots import box, lower
from nsbox.oci.snapshots.compare import Comparison
from nsbox.oci.snapshots.copier import DEPTH
from nsbox.oci.unpacking.refusal import Reason, Refused, reported

_SOCKET, _ANSWER = 0, 1
_ORDER_BYTES = 65_536
_REPORT_BYTES = 16 << 20


class Order(NamedTuple):
    """See ``orders.DiffOrder``, whose fields these are."""

    sandbox: str
    upper: str
    lower: list[str]
    after: str
    limit: int
    seconds: float


def read_order(descriptor: int) -> dict[str, Any]:
    """A line of JSON, which may come in pieces."""
    said = b""
    while not said.endswith(b"\n") and len(said) < _ORDER_BYTES:
        piece = os.read(descriptor, _ORDER_BYTES)
        if not piece:
            raise box.Gone
        said += piece
    return dict(json.loads(said))


def main(arguments: list[str]) -> int:
    """0 when an answer was given, be it a refusal."""
    layers = os.open(os.path.dirname(arguments[0]), FOLDER)
    try:
        report = _compared(layers, Order(**read_order(_SOCKET)))
    except (Refused, OSError) as error:
        report = reported(error, "what is to be compared")
    except box.Gone:
        return 1
    rest = memoryview(json.dumps(report).encode())
    while rest:
        rest = rest[os.write(_ANSWER, rest) :]
    return 0


def _compared(layers: int, order: Order) -> dict[str, Any]:
    try:
        after = base64.b64decode(order.after, b"-_", validate=True)
    except binascii.Error:
        raise Refused(Reason.NAME, "after is none of ours") from None
    folder = lower.upper(layers, order.sandbox) if order.sandbox else lower.layer(layers, order.upper)
    over, under = box.picture(folder), lower.merged(layers, order.lower)

    def work(given: box.Given) -> dict[str, Any]:
        above, below = (os.open(".", FOLDER, dir_fd=tree) for tree in given.trees)
        return Comparison(above, below, after, order.limit).run()

    walls = box.Walls(writes=False, report_bytes=_REPORT_BYTES, descriptors=2 * DEPTH + 64)
    report = box.run((over, under), work, walls, seconds=order.seconds, hang_up=_SOCKET)
    if order.sandbox and not lower.is_still(layers, order.sandbox, folder):
        raise Refused(Reason.BUSY, "the sandbox ended meanwhile")
    return report
