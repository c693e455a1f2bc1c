"""Images and snapshots to a registry. A client that leaves does not end a push; who asks for the same push
meanwhile waits for the one that runs.
"""

from __future__ import annotations

import logging

import trio

from nsbox.host.keeper import KeeperLink
from nsbox.model.errors import Code, HostProblem, Problem
from nsbox.model.image import Pushed
from nsbox.model.snapshot import Snapshot
from nsbox.oci.pushing import Target
from nsbox.oci.reference import BadReference, Reference, parse
from nsbox.oci.registry_errors import Denied, NotThere, Patience, RegistryError, TooLarge
from nsbox.oci.snapshots.orders import ExportOrder, Packed, TaskRefused
from nsbox.service import cuts, registries
from nsbox.service.exports import image_order, snapshot_order
from nsbox.service.images import BUILT, Images
from nsbox.service.shipping import Cargo, Known, Original, Shipment
from nsbox.service.work import Work
from nsbox.settings import Settings

_log = logging.getLogger(__name__)
_FIELD = "to"
#: Pushes at once. Who asks for one more is told to wait.
_MOST_PUSHES = 16
#: Layers at once, of all of them: each is a process that reads the disk and packs.
_LAYERS_AT_ONCE = 4
_MOST_ORIGINALS = 4


class Push(Work[Pushed]):
    """One image on its way out."""


class Pushes:
    """All of this host. ``nursery`` is the daemon's."""

    def __init__(
        self,
        settings: Settings,
        images: Images,
        keeper: KeeperLink,
        nursery: trio.Nursery,
        *,
        patience: Patience | None = None,
    ) -> None:
        self._settings, self._images, self._keeper, self._nursery = settings, images, keeper, nursery
        self._patience = patience or Patience()
        self._running: dict[tuple[str, str], Push] = {}
        self._known = Known()
        self._turns = trio.Semaphore(_LAYERS_AT_ONCE)

    def image(self, name: str, to: str | None) -> Push:
        """Begin, or join in; to where its own name says, unless ``to`` says otherwise. Raises ``Problem``."""
        image = self._images.find(name)
        if to is None and image.reference.startswith(BUILT):
            detail = f"{image.reference} was built here: no registry is named in that"
            raise Problem(Code.INVALID_FIELD, detail, field=_FIELD, remedy="say what it shall be called")
        return self._begin(image.reference, image_order(image), to or image.reference.partition("@")[0])

    def snapshot(self, record: Snapshot, to: str) -> Push:
        """The same of a snapshot, which must be the caller's. Raises ``Problem``."""
        return self._begin(record.id, snapshot_order(record), to)

    def _begin(self, source: str, order: ExportOrder, text: str) -> Push:
        to = _read(text)
        registries.check_allowed(to, self._settings, _FIELD)
        key = source, str(to)
        running = self._running.get(key)
        if running is not None:
            return running
        if len(self._running) >= _MOST_PUSHES:
            raise Problem(
                Code.TOO_MANY_PUSHES, f"{_MOST_PUSHES} images are being pushed", remedy="try again later"
            )
        push = self._running[key] = Push(str(to))
        cargo = Cargo(layers=order.layers, config=order.config, originals=self._originals(order.layers))
        self._nursery.start_soon(self._push, push, key, cargo, to)
        return push

    def _originals(self, names: tuple[str, ...]) -> dict[str, tuple[Original, ...]]:
        """The blobs that layers came as, as far as is known: snapshots stand on layers of images, too."""
        found: dict[str, tuple[Original, ...]] = dict.fromkeys(names, ())
        for image in self._images.list():
            try:
                source = parse(image.reference)
            except BadReference:  # built here
                continue
            for layer in image.layers:
                before = found.get(layer.name)
                if before is None or not layer.packing or len(before) >= _MOST_ORIGINALS:
                    continue
                blob = Packed(layer.diff_id, layer.digest, layer.size)
                found[layer.name] = (
                    *before,
                    Original(
                        registry=source.registry,
                        repository=source.repository,
                        blob=blob,
                        packing=layer.packing,
                    ),
                )
        return found

    async def _push(self, push: Push, key: tuple[str, str], cargo: Cargo, to: Reference) -> None:
        """Whatever happens, it ends, and those who wait are told. Nothing is raised into the daemon."""
        seconds = self._settings.image_push_timeout_s
        try:
            with self._images.hold(cargo.layers), trio.fail_after(seconds):
                push.result = await self._shipped(push, cargo, to)
        except trio.TooSlowError:
            push.problem = Problem(
                Code.PUSH_TIMED_OUT,
                f"{to.familiar} was not pushed within {seconds} s",
                remedy="ask again: layers that arrived are not sent twice; or raise image_push_timeout_s",
            )
        except Exception as error:
            push.problem = problem_of(error, to)
            if push.problem is None:
                _log.exception("pushing %s failed", to)
                push.problem = HostProblem(
                    f"{to.familiar} could not be pushed: {error}", remedy="see the log"
                )
        finally:
            del self._running[key]
            push.end()

    async def _shipped(self, push: Push, cargo: Cargo, to: Reference) -> Pushed:
        # Not to a mirror, which is a copy: the registry itself comes last.
        endpoint, repository = registries.endpoints(to, self._settings)[-1]
        async with Target(endpoint, repository, self._patience) as target:
            seconds = float(self._settings.image_push_timeout_s)
            shipment = Shipment(target, to, self._keeper, self._known, self._turns, push.tell, seconds)
            return await shipment.push(cargo)


def _read(text: str) -> Reference:
    to = registries.read(text, _FIELD)
    if to.digest:
        detail = f"{to.familiar} names a digest, which is that of what is there already"
        raise Problem(Code.INVALID_FIELD, detail, field=_FIELD, remedy="name a tag, as in registry/name:tag")
    return to


def problem_of(error: Exception, to: Reference) -> Problem | HostProblem | None:
    """Why nothing was pushed, in the words of the API; None for what is a fault of nsbox."""
    sentence = f"{to.familiar} cannot be pushed: {error}"
    match error:
        case Problem() | HostProblem():
            return error
        case TaskRefused():
            return cuts.problem_of(error)
        case Denied():
            return Problem(
                Code.PUSH_REFUSED,
                sentence,
                field=_FIELD,
                remedy="let the operator give nsbox credentials that may push there: username and "
                f'password_file for registries."{to.registry}", or a login in one of registry_auth_files',
            )
        case NotThere():
            mended = "check the name; some registries want a repository to be made first"
            return Problem(Code.PUSH_REFUSED, sentence, field=_FIELD, remedy=mended)
        case TooLarge():
            mended = "let whoever runs the registry, or the proxy before it, raise its limit for bodies"
            return Problem(Code.PUSH_REFUSED, sentence, field=_FIELD, remedy=mended)
        case RegistryError():
            return Problem(Code.REGISTRY_FAILED, sentence, remedy=error.remedy or "try again later")
    return None
