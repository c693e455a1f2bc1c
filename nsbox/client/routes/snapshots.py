"""``/snapshots``."""

from __future__ import annotations

from nsbox.client.call import Call, Request, body, part, query, reader
from nsbox.client.routes import images
from nsbox.client.types.file import Changes
from nsbox.client.types.image import Pushed, RemovedSnapshot, Snapshot

_COPY, _SILENCE, _PUSH = 600.0, 300.0, 7_200.0


def get_all(top: str) -> Call[list[Snapshot]]:
    """All of yours, oldest first."""
    return Call("GET", f"{top}/snapshots", reader(list[Snapshot]), safe=True)


def get(top: str, snapshot_id: str) -> Call[Snapshot]:
    """One of them."""
    return Call("GET", f"{top}/snapshots/{part(snapshot_id)}", reader(Snapshot), safe=True)


def remove(top: str, snapshot_id: str) -> Call[RemovedSnapshot]:
    """Nobody is given it any more. Sandboxes that stand on it go on."""
    path, gone = f"{top}/snapshots/{part(snapshot_id)}", RemovedSnapshot(id=snapshot_id)
    return Call("DELETE", path, reader(RemovedSnapshot), safe=True, again=lambda: gone)


def diff(top: str, snapshot_id: str, *, after: str | None = None, limit: int | None = None) -> Call[Changes]:
    """What is different from what its sandbox was made from."""
    path, asked = f"{top}/snapshots/{part(snapshot_id)}/diff", query(after=after, limit=limit)
    return Call("GET", path, reader(Changes), query=asked, safe=True, patience=_COPY)


def push(top: str, snapshot_id: str, to: str) -> Call[Pushed]:
    """Push it to a registry, as an image. What runs already is joined."""
    path = f"{top}/snapshots/{part(snapshot_id)}/push"
    return Call("POST", path, reader(Pushed), body=body(to=to), safe=True, patience=_PUSH)


def pushing(top: str, snapshot_id: str, to: str) -> Request:
    """The same, told as it goes on."""
    return images.told_push(f"{top}/snapshots/{part(snapshot_id)}/push", body(to=to))


def export(top: str, snapshot_id: str, form: str) -> Request:
    """The bytes of an archive: ``oci`` or ``tar``."""
    target = f"{top}/snapshots/{part(snapshot_id)}/export?{query(format=form)}"
    return Request("GET", target, (), None, _SILENCE)
