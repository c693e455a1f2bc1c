"""Images in memory, with the real interface."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable

import trio

from nsbox.model.errors import Code, Problem
from nsbox.model.image import DiskUse, Image, ImageConfig, Layer, Progress, Pruned, Pushed, PushedLayer, Stage
from nsbox.model.sandbox import Template
from nsbox.model.snapshot import Snapshot
from nsbox.oci.reference import Reference
from nsbox.oci.templatefile import TemplateFile

DIGEST = "sha256:" + "d" * 64


def an_image(reference: str) -> Image:
    return Image(
        reference=reference,
        digest=DIGEST,
        config=ImageConfig(env={"A": "1"}, workdir="/w", os="linux", architecture="amd64"),
        layers=(Layer(digest=DIGEST, size=10, diff_id=DIGEST, name="i-x", unpacked=20),),
        pulled_at=1_773_403_200.0,
        source="registry",
    )


class FakePull:
    def __init__(self, images: FakeImages, reference: Reference) -> None:
        self._images, self._reference = images, reference

    async def wait(self) -> Image:
        if self._images.hang is not None:
            await self._images.hang.wait()
        if self._images.error is not None:
            raise self._images.error
        image = self._images.images[str(self._reference)] = an_image(str(self._reference))
        return image

    async def news(self) -> AsyncGenerator[Progress, None]:
        await trio.lowlevel.checkpoint()
        yield Progress(stage=Stage.RESOLVING)
        yield Progress(stage=Stage.DOWNLOADING, layer=DIGEST, current=5, total=10)


class FakePush:
    def __init__(self, pushes: FakePushes, to: str) -> None:
        self._pushes, self._to = pushes, to

    async def wait(self) -> Pushed:
        await trio.lowlevel.checkpoint()
        if self._pushes.error is not None:
            raise self._pushes.error
        layers = tuple(
            PushedLayer(digest=DIGEST, size=10, how=how) for how in (Stage.PRESENT, Stage.MOUNTED, Stage.DONE)
        )
        return Pushed(reference=self._to, digest=DIGEST, layers=layers)

    async def news(self) -> AsyncGenerator[Progress, None]:
        await trio.lowlevel.checkpoint()
        yield Progress(stage=Stage.PACKING)
        yield Progress(stage=Stage.UPLOADING, layer=DIGEST, current=5, total=10)


class FakePushes:
    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.error: Exception | None = None

    def image(self, name: str, to: str | None) -> FakePush:
        self.asked.append((name, to))
        return FakePush(self, to or name)

    def snapshot(self, record: Snapshot, to: str) -> FakePush:
        self.asked.append((record.id, to))
        return FakePush(self, to)


class FakeImages:
    def __init__(self) -> None:
        self.images: dict[str, Image] = {}
        self.error: Exception | None = None
        self.hang: trio.Event | None = None
        self.pulled: list[str] = []
        self.imported: list[tuple[str, bytes]] = []
        self.pruned: list[bool] = []
        self.spooled = -1
        self.room = 1 << 40

    def list(self) -> list[Image]:
        return list(self.images.values())

    def find(self, name: str) -> Image:
        if name not in self.images:
            raise Problem(Code.IMAGE_NOT_FOUND, f"no image {name}")
        return self.images[name]

    def pull(self, reference: Reference) -> FakePull:
        self.pulled.append(str(reference))
        return FakePull(self, reference)

    async def have_room(self, more: int) -> None:
        await trio.lowlevel.checkpoint()
        if more > self.room:
            raise Problem(Code.HOST_FULL, "no room")
        self.room -= more

    def spool(self) -> int:
        self.spooled = os.memfd_create("spool", os.MFD_CLOEXEC)
        return self.spooled

    async def import_archive(self, descriptor: int, name: str) -> Image:
        if self.error is not None:
            raise self.error
        self.imported.append((name, os.pread(descriptor, 1 << 20, 0)))
        return an_image(name)

    async def remove(self, name: str) -> Image:
        image = self.find(name)
        del self.images[name]
        return image

    async def prune(self, everything: bool) -> Pruned:
        self.pruned.append(everything)
        return Pruned(images=("x",), layers=("i-1", "i-2"), bytes=7)

    async def disk_use(self) -> DiskUse:
        return DiskUse(images=1, layers=2, bytes=3, reclaimable=4, downloads=5)


class FakeBuilding:
    def __init__(self) -> None:
        self.built: list[TemplateFile] = []
        self.error: Exception | None = None

    async def build(self, file: TemplateFile, told: Callable[[str], None]) -> Template:
        told("run something")
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        self.built.append(file)
        return Template(name=file.name, layers=("t-1", "i-x"), image=file.image)
