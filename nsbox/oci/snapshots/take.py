"""Keeps what a sandbox has written as a layer: ``prepare()([FOLDER])``, in a fork of keeper in the outer
namespace.

Standard input is a stream socket: the order comes on it and the report goes back. When whoever asked hangs up
before that, the work is given up and nothing is left. The answer comes when the layer has its name; that it
is on disk, which may take much longer, is told by the end of this process with status 0.
"""

import json
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from nsbox.kernel import libc
from nsbox.oci.placing import FOLDER, Placing
from nsbox.oci.snapshots import box, lower
from nsbox.oci.snapshots.copier import DEPTH, Bounds, Copier
from nsbox.oci.unpacking.refusal import Reason, Refused, reported

_SOCKET = 0
_ORDER_BYTES = 4096


class Order(NamedTuple):
    """``sync``: whether the layer is to outlive a power cut."""

    sandbox: str
    sync: bool
    seconds: float
    max_bytes: int
    max_entries: int
    reserve: int


def prepare() -> Callable[[list[str]], int]:
    """Get ready before anybody has asked: ``main``, with the child that will do the work in its box."""
    os.umask(0)
    child = box.Child(_copied, box.Walls(writes=True, descriptors=2 * DEPTH + 64))
    return partial(_main, child)


def _main(child: box.Child, arguments: list[str]) -> int:
    """0 when a report was given, be it a refusal, and what it is about is on disk if that was asked for."""
    folder = -1
    try:
        with child:
            said = os.read(_SOCKET, _ORDER_BYTES)  # it comes when the sandbox stands
            if not said:
                raise box.Gone
            order = Order(**json.loads(said))
            report, folder = _taken(arguments[0], order, child)
    except (Refused, OSError) as error:
        report = reported(error, "the layer's folder")
    except box.Gone:
        return 1
    try:
        os.write(_SOCKET, json.dumps(report).encode())
    except OSError:
        return 1  # the layer is nobody's then: the next api removes it
    if folder >= 0 and order.sync:
        libc.syncfs(folder)
    return 0


def _taken(path: str, order: Order, child: box.Child) -> tuple[dict[str, Any], int]:
    with Placing(path) as place:
        upper = lower.upper(place.layers, order.sandbox)
        trees = box.picture(upper), box.picture(place.folder, writable=True)
        bounds = Bounds(order.max_bytes, order.max_entries, order.reserve)
        report = child.run(trees, seconds=order.seconds, hang_up=_SOCKET, told=bounds._asdict())
        if not lower.is_still(place.layers, order.sandbox, upper):
            raise Refused(Reason.BUSY, "the sandbox ended meanwhile")
        place.publish()
    return {name: int(number) for name, number in report.items()}, place.folder


def _copied(given: box.Given) -> dict[str, Any]:
    """In the box."""
    source, target = (os.open(".", FOLDER, dir_fd=tree) for tree in given.trees)
    return dict(Copier(source, target, Bounds(**given.told)).run())
