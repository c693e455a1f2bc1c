"""Images: pulled and imported, found, removed; shared by all sandboxes of this host."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import msgspec
import trio

from nsbox.host.storage import Reserve
from nsbox.model.errors import Code, HostProblem, Problem
from nsbox.model.image import DiskUse, Image, Layer, Pruned, PullPolicy, Stage
from nsbox.model.sandbox import Template
from nsbox.oci import stack
from nsbox.oci.archive import ArchiveSource
from nsbox.oci.blobs import Blobs
from nsbox.oci.layers import Caps, TaskRunner
from nsbox.oci.library import Library
from nsbox.oci.reference import Reference, parse
from nsbox.oci.registry_errors import Patience
from nsbox.oci.sources import Found, Part, RegistrySource, Source
from nsbox.service import clock, registries
from nsbox.service.layers import Layers
from nsbox.service.pulls import Pull, problem_of
from nsbox.service.room import Room
from nsbox.settings import Settings

_log = logging.getLogger(__name__)

#: Pulls at once. Who asks for one more is told to wait.
_MOST_PULLS = 32
_HOUR = 3600.0
#: What ``nsbox image build`` made is kept under such a name: no registry's image can have it.
BUILT = "template/"


class Images:
    """The library and what is on its way to it. ``nursery`` is the daemon's: pulls outlive who asked.

    ``standing`` tells the layers that sandboxes and templates stand on.
    """

    def __init__(
        self,
        settings: Settings,
        keeper: TaskRunner,
        nursery: trio.Nursery,
        standing: Callable[[], Iterable[Iterable[str]]],
        reserve: Reserve,
        *,
        caps: Caps | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._settings, self._nursery, self._standing = settings, nursery, standing
        self._patience = patience or Patience()
        self._library = Library(settings.state_dir)
        self._blobs = Blobs(settings.state_dir)
        self._images = self._library.load()
        self._pulls: dict[str, Pull] = {}
        self._platform = registries.wanted_platform(settings)
        self.layers = Layers(
            self._library,
            self._blobs,
            keeper,
            self._used,
            downloads=settings.image_downloads,
            caps=caps
            or Caps(
                max_bytes=settings.max_layer_bytes,
                max_entries=settings.max_layer_entries,
                seconds=float(settings.image_pull_timeout_s),
            ),
        )
        self._room = Room(reserve, lambda: self.layers.collect(0))

    def _used(self) -> set[str]:
        names = {name for image in self._images.values() for name in image.layer_names}
        return names.union(*self._standing())

    def hold(self, names: Iterable[str]) -> AbstractContextManager[None]:
        """Keep layers for a sandbox that is being made and is not in any record yet."""
        return self.layers.held(names)

    # ---- look

    def list(self) -> list[Image]:
        """All that are here, by name."""
        return [self._images[name] for name in sorted(self._images)]

    def find(self, name: str) -> Image:
        """Raises ``Problem(IMAGE_NOT_FOUND)``."""
        image = self._images.get(name)
        if image is None and not name.startswith(BUILT):
            image = self._images.get(str(registries.read(name)))
        if image is None:
            raise Problem(
                Code.IMAGE_NOT_FOUND,
                f"the image {name[:200]!r} is not here",
                remedy="list them with GET /images",
            )
        return image

    def has(self, reference: Reference) -> bool:
        """Whether it is here."""
        return str(reference) in self._images

    def built(self, template: str) -> Template | None:
        """What was built for a template."""
        image = self._images.get(BUILT + template)
        return image.built if image is not None else None

    async def disk_use(self) -> DiskUse:
        """What all of it takes."""
        return await trio.to_thread.run_sync(self._disk_use)

    def _disk_use(self) -> DiskUse:
        known = {layer.name: layer.unpacked for image in self._images.values() for layer in image.layers}
        unneeded = [self._library.layer_info(name) for name in self.layers.unneeded()]
        reclaimable = sum(info.bytes for info in unneeded if info)
        return DiskUse(
            images=len(self._images),
            layers=len(known),
            bytes=sum(known.values()),
            reclaimable=reclaimable,
            downloads=sum(size for _, size, _ in self._blobs.entries()),
        )

    # ---- get

    async def ensure(self, reference: Reference, policy: PullPolicy | None) -> Image:
        """The image, pulled if need be and allowed. Raises ``Problem``, ``HostProblem``.

        There is no checkpoint between finding it and returning: the caller can hold its layers in time.
        """
        policy = policy or self._settings.image_pull
        registries.check_allowed(reference, self._settings)
        image = self._images.get(str(reference))
        if image is not None and policy is not PullPolicy.ALWAYS:
            return image
        if policy is PullPolicy.NEVER:
            raise Problem(
                Code.IMAGE_NOT_AVAILABLE,
                f"{reference.familiar} is not here, and is not to be pulled",
                field="image",
                remedy="pull it first (nsbox image pull), or leave out pull: never",
            )
        image = await self.pull(reference).wait()
        return self._images.get(str(reference), image)

    def pull(self, reference: Reference) -> Pull:
        """Have it pulled; one that is being pulled already is the same pull. Raises ``Problem``."""
        registries.check_allowed(reference, self._settings)
        pull = self._begin(str(reference))
        if pull is not None:
            self._nursery.start_soon(self._pull, pull, reference)
        return self._pulls[str(reference)]

    def _begin(self, name: str) -> Pull | None:
        """A new pull, or None where there is one of that name."""
        if name in self._pulls:
            return None
        if len(self._pulls) >= _MOST_PULLS:
            raise Problem(
                Code.TOO_MANY_PULLS, f"{_MOST_PULLS} images are being pulled", remedy="try again later"
            )
        pull = self._pulls[name] = Pull(name)
        return pull

    async def _pull(self, pull: Pull, reference: Reference) -> None:
        with self._ending(pull, reference.familiar):
            where = registries.endpoints(reference, self._settings)
            source = RegistrySource(
                reference,
                where,
                self._platform,
                most_bytes=self._settings.max_image_bytes,
                patience=self._patience,
            )
            with self._in_time(reference.familiar):
                async with source:
                    await self._bring(pull, source)

    async def import_archive(self, descriptor: int, name: str) -> Image:
        """An image of an archive, which is open as ``descriptor``. Raises ``Problem``, ``HostProblem``."""
        source = ArchiveSource(descriptor, name, self._platform, most_bytes=self._settings.max_image_bytes)
        pull = Pull(name)
        with self._ending(pull, name or "the archive's image"), self._in_time(name):
            await self._bring(pull, source, "name")
        return await pull.wait()

    def spool(self) -> int:
        """A file without a name, for an archive that comes over the network."""
        return self._blobs.temporary()

    async def have_room(self, more: int) -> None:
        """For so many bytes, on the disk. Raises ``Problem(HOST_FULL)``."""
        await self._room.have(more)

    @contextmanager
    def _in_time(self, familiar: str) -> Iterator[None]:
        seconds = self._settings.image_pull_timeout_s
        try:
            with trio.fail_after(seconds):
                yield
        except trio.TooSlowError as error:
            raise Problem(
                Code.PULL_TIMED_OUT,
                f"{familiar} was not there within {seconds} s",
                remedy="ask again: what was downloaded is kept; or raise image_pull_timeout_s",
            ) from error

    @contextmanager
    def _ending(self, pull: Pull, familiar: str) -> Iterator[None]:
        """Whatever happens, the pull ends, and those who wait are told. Nothing is raised into the daemon."""
        try:
            yield
        except Exception as error:
            problem = problem_of(error, familiar)
            if problem is None:
                _log.exception("pulling %s failed", pull.reference)
                problem = HostProblem(f"{familiar} could not be pulled: {error}", remedy="see the log")
            pull.problem = problem
        finally:
            self._pulls.pop(pull.reference, None)
            pull.end()

    async def _bring(self, pull: Pull, source: Source, named_by: str = "image") -> None:
        pull.tell(Stage.RESOLVING)
        found = await source.find()
        # An archive says only now what it is called; under another name nobody could create from it.
        registries.check_allowed(parse(found.reference), self._settings, named_by)
        try:
            with self.hold(part.name for part in found.parts):
                sizes = await self._install(found, source, pull)
                image = await trio.to_thread.run_sync(self._image, found, sizes)
                await self.keep(image)
        except Exception as error:
            problem = problem_of(error, found.reference)
            if isinstance(problem, Problem) and problem.code is Code.HOST_FULL:
                _log.warning("the disk is nearly full: %s was not pulled", found.reference)
                # Elsewhere a half is kept for the next try. Here it would keep all others from working.
                await self.layers.collect(0)
            raise
        pull.result = image
        pull.tell(Stage.DONE)

    async def _install(self, found: Found, source: Source, pull: Pull) -> dict[str, int]:
        """All layers, at once as far as the limits and the disk allow. Raises the first error of any."""
        parts = {part.name: part for part in found.parts}
        sizes: dict[str, int] = {}
        failures: list[Exception] = []

        async def one(part: Part) -> None:
            sizes[part.name] = await self.layers.install(part, source, pull.tell)

        async def attempt(work: Callable[..., Awaitable[None]], *arguments: Part) -> None:
            try:
                await work(*arguments)
            except Exception as error:
                failures.append(error)
                watched.cancel_scope.cancel()

        # As they are packed; what they unpack to nobody knows yet, so it is watched.
        missing = sum(part.size for part in parts.values() if not self.layers.is_here(part.name))
        if missing:
            await self._room.have(missing)
        async with trio.open_nursery() as watched:
            if missing:
                watched.start_soon(attempt, self._room.watch)
            async with trio.open_nursery() as nursery:
                for part in parts.values():
                    nursery.start_soon(attempt, one, part)
            watched.cancel_scope.cancel()
        if failures:
            raise failures[0]
        return sizes

    def _image(self, found: Found, sizes: dict[str, int]) -> Image:
        image = Image(
            reference=found.reference,
            digest=found.digest,
            index=found.index,
            config=found.config,
            layers=tuple(
                Layer(
                    digest=part.digest,
                    size=part.size,
                    diff_id=part.diff_id,
                    name=part.name,
                    unpacked=sizes[part.name],
                    packing=part.compression,
                )
                for part in found.parts
            ),
            pulled_at=clock.wall(),
            source=found.source,
        )
        return self._looked_into(image)

    def _looked_into(self, image: Image) -> Image:
        paths = [self._library.layer_path(name) for name in image.layer_names]
        config = image.config
        if not stack.has_folder(paths, config.workdir):
            config = msgspec.structs.replace(config, workdir="/")
        return msgspec.structs.replace(image, shell=stack.has_shell(paths), config=config)

    async def keep(self, image: Image) -> None:
        """Write an image down, whose layers are all there and held."""
        await trio.to_thread.run_sync(self._library.save, image)
        self._images[image.reference] = image

    # ---- remove

    async def remove(self, name: str) -> Image:
        """Forget an image. Its layers go unless another image or a living sandbox stands on them."""
        image = self.find(name)
        # From memory first: from here on nobody is given it.
        self._images.pop(image.reference, None)
        await trio.to_thread.run_sync(self._library.forget, image.reference)
        await self.layers.collect(0)
        return image

    async def prune(self, everything: bool) -> Pruned:
        """Remove what nobody needs: layers and half downloads; with ``everything`` images too on which no
        sandbox stands, but for built ones, which nobody could pull again."""
        removed = []
        if everything:
            standing = [tuple(names) for names in self._standing()]
            for image in self.list():
                if image.layer_names not in standing and image.built is None:
                    self._images.pop(image.reference, None)
                    await trio.to_thread.run_sync(self._library.forget, image.reference)
                    removed.append(image.reference)
        layers, freed = await self.layers.collect(0)
        return Pruned(images=tuple(removed), layers=tuple(layers), bytes=freed)

    async def keep_house(self) -> None:
        """Collect garbage that is old enough, for ever. Not at once: an interrupted pull goes on with it."""
        while True:
            try:
                await self.layers.collect(self._settings.image_keep_s)
            except Exception:
                _log.exception("collecting unneeded layers failed")
            await trio.sleep(_HOUR)


def as_template(image: Image, name: str) -> Template:
    """How sandboxes are made from an image."""
    config = image.config
    return Template(
        name=name,
        layers=image.layer_names,
        env=config.env,
        workdir=config.workdir,
        user=config.user,
        shell=("/bin/sh", "-c") if image.shell else (),
        image=image.reference,
    )
