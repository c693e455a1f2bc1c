"""The library and its pulls, against a registry of the tests' own; layers are made up."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from nsbox.host.storage import Reserve, full
from nsbox.model.errors import Code, Problem
from nsbox.model.image import PullPolicy, Stage
from nsbox.oci.layers import Caps, LayerRefused, LayerReport, Reason
from nsbox.oci.reference import parse
from nsbox.oci.registry_errors import Patience
from nsbox.oci.templatefile import TemplateFile
from nsbox.service import layers as layers_module
from nsbox.service import registries
from nsbox.service.images import Images
from nsbox.service.templates import Templates, applied
from nsbox.settings import Registry, Settings
from tests.registries.fake import FakeRegistry, Handler, serving
from tests.registries.images import image, layer, layout_tar

BASE, TOP, OTHER = layer({"bin/sh": b"x"}), layer({"app": b"1"}), layer({"app": b"2"})
OTHER_SIZE = len(OTHER.blob)
ONE, TWO = image([BASE, TOP], Env=["A=1"], User="app"), image([BASE, OTHER])
PATIENCE = Patience(backoff=0.01, tries=2, silence=5)


class Unpacker:
    """Takes the place of the worker below keeper."""

    def __init__(self, state: Path) -> None:
        self.layers = state / "layers"
        self.layers.mkdir(exist_ok=True)
        self.made: list[str] = []
        self.removed: list[str] = []
        self.refuse: list[Exception] = []
        self.waiting = 0
        self.gate: trio.Event | None = None
        self.devices = 0

    async def unpack(
        self, keeper: Any, blob: int, name: str, *, compression: Any, diff_id: str | None, caps: Caps | None
    ) -> LayerReport:
        if self.gate is not None:
            self.waiting += 1
            await self.gate.wait()
        await trio.lowlevel.checkpoint()
        if self.refuse:
            raise self.refuse.pop()
        assert os.fstat(blob).st_size
        (self.layers / name).mkdir()
        (self.layers / name / "bin").mkdir()
        (self.layers / name / "bin" / "sh").touch(0o755)
        self.made.append(name)
        return LayerReport(
            diff_id=diff_id or "",
            entries=1,
            bytes=100,
            devices_skipped=self.devices,
            xattrs_dropped=0,
            peak_kib=1,
            seconds=0,
        )

    async def task(self, key: str, name: str, argument: str, descriptors: Sequence[int]) -> int:
        assert name == "remove-layer"
        await trio.lowlevel.checkpoint()
        folder = self.layers / argument
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()
        self.removed.append(argument)
        return 0


class Disk(Reserve):
    """A disk that has what is left of ``size`` beside the blobs and ``taken``; nothing is ever full before
    ``size`` is set."""

    def __init__(self, state: Path) -> None:
        super().__init__(str(state), 1)
        self.blobs, self.size, self.taken = state / "blobs", 1 << 40, 0
        self.asked: list[int] = []

    def check(self, more: int = 0) -> None:
        self.asked.append(more)
        used = sum(one.stat().st_size for one in self.blobs.iterdir()) + self.taken
        if used + more > self.size:
            raise full()


class Kit:
    """Images, and what is around them."""

    def __init__(self, state: Path, unpacker: Unpacker, nursery: trio.Nursery, settings: Settings) -> None:
        self.state, self.unpacker, self.nursery, self.settings = state, unpacker, nursery, settings
        self.standing: list[tuple[str, ...]] = []
        self.reserve = Disk(state)
        self.images = self.anew()

    def anew(self) -> Images:
        """As the next daemon finds it."""
        self.images = Images(
            self.settings,
            self.unpacker,
            self.nursery,
            lambda: self.standing,
            self.reserve,
            patience=PATIENCE,
        )
        return self.images

    async def pull(self, name: str, policy: PullPolicy | None = None) -> Any:
        return await self.images.ensure(parse(name), policy)

    def layers(self) -> set[str]:
        return {one.name for one in self.unpacker.layers.iterdir()}

    def blobs(self) -> list[str]:
        return sorted(os.listdir(self.state / "blobs"))


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with serving() as one:
        yield one


@pytest.fixture
def make(tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Kit]:
    def kit(**settings: Any) -> Kit:
        unpacker = Unpacker(tmp_path)
        monkeypatch.setattr(layers_module, "unpack", unpacker.unpack)
        return Kit(tmp_path, unpacker, nursery, Settings(state_dir=str(tmp_path), **settings))

    return kit


async def test_a_pull_and_the_next_daemon(make: Callable[..., Kit], registry: FakeRegistry) -> None:
    kit = make()
    name = registry.push("a", ONE)
    got = await kit.pull(name)
    assert (got.reference, got.digest, got.config.env, got.config.user) == (
        name,
        ONE.digest,
        {"A": "1"},
        "app",
    )
    assert got.layer_names == tuple(reversed([one.name for one in got.layers]))
    assert kit.layers() == set(got.layer_names)
    assert kit.blobs() == [], "blobs go when their layers are there"
    asked = len(registry.asked)
    assert await kit.pull(name) == got
    kit.anew()
    assert await kit.pull(name) == got
    assert len(registry.asked) == asked, "nobody was asked again"
    assert kit.images.find(name) == got


async def test_what_a_layer_was_denied_is_logged(
    make: Callable[..., Kit], registry: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    kit = make()
    await kit.pull(registry.push("a", image([BASE])))
    caplog.set_level("INFO")
    kit.unpacker.devices = 3
    await kit.pull(registry.push("b", image([TOP])))
    (line,) = (one for one in caplog.messages if "the layer" in one)
    assert TOP.diff_id in line
    assert "its 3 devices" in line


async def test_policies(make: Callable[..., Kit], registry: FakeRegistry) -> None:
    kit = make()
    name = registry.push("a", ONE)
    with pytest.raises(Problem, match="not to be pulled") as caught:
        await kit.pull(name, PullPolicy.NEVER)
    assert (caught.value.code, caught.value.field) == (Code.IMAGE_NOT_AVAILABLE, "image")
    assert not registry.asked
    await kit.pull(name, PullPolicy.MISSING)
    registry.push("a", TWO)
    assert (await kit.pull(name, PullPolicy.MISSING)).digest == ONE.digest
    assert (await kit.pull(name, PullPolicy.NEVER)).digest == ONE.digest
    assert (await kit.pull(name, PullPolicy.ALWAYS)).digest == TWO.digest
    assert (await kit.pull(name, PullPolicy.MISSING)).digest == TWO.digest
    kit.settings = msgspec.structs.replace(kit.settings, image_pull=PullPolicy.NEVER)
    kit.anew()
    with pytest.raises(Problem, match="not to be pulled"):
        await kit.pull(registry.push("b", ONE))


async def test_pulls_of_one_image_are_one(make: Callable[..., Kit], registry: FakeRegistry) -> None:
    kit = make()
    name = registry.push("a", ONE)
    found = []

    async def ask() -> None:
        found.append(await kit.pull(name))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)
    assert len(registry.paths("manifests")) == 1
    assert len({one.digest for one in found}) == 1
    assert len(kit.unpacker.made) == 2


async def test_images_that_share_a_layer_get_it_once(
    make: Callable[..., Kit], registry: FakeRegistry
) -> None:
    kit = make()
    one, two = registry.push("a", ONE), registry.push("b", TWO)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kit.pull, one)
        nursery.start_soon(kit.pull, two)
    assert len(kit.unpacker.made) == 3
    assert len(registry.paths(BASE.digest)) == 1
    use = await kit.images.disk_use()
    assert (use.images, use.layers, use.bytes, use.reclaimable) == (2, 3, 300, 0)


async def test_layers_come_side_by_side_as_many_as_is_set(
    make: Callable[..., Kit], registry: FakeRegistry
) -> None:
    """Three of five at once, each held until the third is there; then the others."""
    made = image([layer({"n": str(number).encode()}) for number in range(5)])
    name = registry.push("a", made)
    together = threading.Barrier(3, timeout=30)
    busy, most = 0, 0
    counting = threading.Lock()

    def hold(handler: Handler) -> None:
        nonlocal busy, most
        if handler.path.rpartition("/")[2] not in {one.digest for one in made.layers}:
            handler.honest()
            return
        with counting:
            busy += 1
            most = max(most, busy)
            first = len(registry.paths("/blobs/")) <= 4  # the config and three layers
        if first:
            together.wait()
        with counting:
            busy -= 1
        handler.honest()

    registry.lies["*"] = hold
    await make(image_downloads=3).pull(name)
    assert not together.broken
    assert most == 3


async def test_who_leaves_ends_no_pull(make: Callable[..., Kit], registry: FakeRegistry) -> None:
    kit = make()
    name = registry.push("a", ONE)
    kit.unpacker.gate = trio.Event()
    with trio.move_on_after(0.2) as scope:
        await kit.pull(name)
    assert scope.cancelled_caught
    kit.unpacker.gate.set()
    await kit.pull(name)
    assert len(registry.paths("manifests")) == 1


async def test_progress(make: Callable[..., Kit], registry: FakeRegistry) -> None:
    kit = make()
    pull = kit.images.pull(parse(registry.push("a", ONE)))
    stages = []
    async with aclosing(pull.news()) as news:
        async for one in news:
            stages.append((one.layer, one.stage))
    assert stages[-1] == ("", Stage.DONE)
    assert {(BASE.digest, Stage.DONE), (TOP.digest, Stage.DONE)} <= set(stages)
    again = kit.images.pull(parse(pull.reference))
    async with aclosing(again.news()) as news:
        stages = [(one.layer, one.stage) async for one in news]
    assert (BASE.digest, Stage.PRESENT) in stages


# ---- what goes wrong


@pytest.mark.parametrize(
    ("name", "code"),
    [("none", Code.IMAGE_NOT_AVAILABLE), ("denied", Code.IMAGE_NOT_AVAILABLE), ("odd", Code.IMAGE_REFUSED),
     ("sick", Code.REGISTRY_FAILED), ("teapot", Code.REGISTRY_FAILED)],
)  # fmt: skip
async def test_problems(make: Callable[..., Kit], registry: FakeRegistry, name: str, code: Code) -> None:
    kit = make()
    registry.lies["/v2/denied/manifests/latest"] = lambda handler: handler.reply(403)
    registry.lies["/v2/odd/manifests/latest"] = lambda handler: handler.reply(200, b"{}", "text/html")
    registry.lies["/v2/sick/manifests/latest"] = lambda handler: handler.reply(500)
    registry.lies["/v2/teapot/manifests/latest"] = lambda handler: handler.reply(418)
    with pytest.raises(Problem) as caught:
        await kit.pull(f"{registry.host}/{name}")
    assert caught.value.code is code
    assert name in caught.value.detail
    assert kit.images.list() == []
    assert kit.layers() == set()


async def test_a_layer_that_is_refused(make: Callable[..., Kit], registry: FakeRegistry) -> None:
    kit = make()
    name = registry.push("a", ONE)
    kit.unpacker.refuse = [LayerRefused(Reason.LINK, "it leads out")]
    with pytest.raises(Problem, match="it leads out") as caught:
        await kit.pull(name)
    assert (caught.value.code, caught.value.facts["reason"]) == (Code.IMAGE_REFUSED, "link")
    assert kit.images.list() == []
    await kit.images.prune(False)
    assert (kit.layers(), kit.blobs()) == (set(), [])
    await kit.pull(name)


async def test_a_host_that_is_full(make: Callable[..., Kit], registry: FakeRegistry) -> None:
    """No fault of the image. Its blob is not kept, or it would be in the way of everybody for a day."""
    kit = make(image_downloads=1)
    name = registry.push("a", image([BASE]))
    for refusal in (LayerRefused(Reason.NO_SPACE, "full"), OSError(errno.ENOSPC, "full")):
        kit.unpacker.refuse = [refusal]
        with pytest.raises(Problem, match="nearly full") as caught:
            await kit.pull(name)
        assert caught.value.code is Code.HOST_FULL
        assert (kit.blobs(), kit.layers()) == ([], set())
    await kit.pull(name)


async def test_an_image_for_which_there_is_no_room(make: Callable[..., Kit], registry: FakeRegistry) -> None:
    """By what its layers have to download, before any is fetched; those that are here do not count."""
    kit = make()
    one, two = registry.push("a", ONE), registry.push("b", TWO)
    await kit.pull(one)
    kit.reserve.size = OTHER_SIZE - 1
    registry.asked.clear()
    with pytest.raises(Problem) as caught:
        await kit.pull(two)
    assert caught.value.code is Code.HOST_FULL
    assert not registry.paths(OTHER.digest)
    kit.reserve.size = OTHER_SIZE
    await kit.pull(two)


async def test_halves_give_way(make: Callable[..., Kit], registry: FakeRegistry) -> None:
    """What is kept only for a next try is removed when there is no room; what somebody needs is not."""
    kit = make()
    name = registry.push("a", ONE)
    half = kit.state / "blobs" / ("b" * 64 + ".part")
    half.write_bytes(bytes(5000))
    kit.reserve.size = 5000
    await kit.pull(name)
    assert not half.exists()
    kit.reserve.size = 0
    with pytest.raises(Problem):
        await kit.images.have_room(1)
    assert len(kit.layers()) == 2


async def test_the_disk_fills_while_it_is_unpacked(make: Callable[..., Kit], registry: FakeRegistry) -> None:
    """Whatever a layer grows to, and whoever else writes: it is given up, and what came of it is removed."""
    kit = make()
    name = registry.push("a", ONE)
    kit.unpacker.gate = trio.Event()  # never set
    failure: list[Problem] = []

    async def ask() -> None:
        with pytest.raises(Problem) as caught:
            await kit.pull(name)
        failure.append(caught.value)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            while not kit.unpacker.waiting:
                await trio.sleep(0.01)
            kit.reserve.size = 1
    assert failure[0].code is Code.HOST_FULL
    assert (kit.blobs(), kit.layers(), kit.images.list()) == ([], set(), [])


async def test_a_layer_that_somebody_else_unpacks(make: Callable[..., Kit], registry: FakeRegistry) -> None:
    """The worker of an api process that was killed: it ends soon."""
    kit = make()
    kit.unpacker.refuse = [LayerRefused(Reason.BUSY, "busy")] * 2
    await kit.pull(registry.push("a", ONE))


async def test_too_late(make: Callable[..., Kit], registry: FakeRegistry) -> None:
    kit = make(image_pull_timeout_s=1)
    name = registry.push("a", ONE)
    kit.unpacker.gate = trio.Event()
    with trio.fail_after(10), pytest.raises(Problem) as caught:
        await kit.pull(name)
    assert caught.value.code is Code.PULL_TIMED_OUT
    kit.unpacker.gate.set()
    blobs = len(registry.paths("/blobs/"))
    await kit.pull(name)
    configs = 1
    assert len(registry.paths("/blobs/")) == blobs + configs, "what was downloaded was kept"


async def test_too_many(make: Callable[..., Kit], registry: FakeRegistry) -> None:
    kit = make()

    def wait(handler: Handler) -> None:
        registry.stopping.wait(30)
        handler.reply(404)

    registry.lies["*"] = wait
    for number in range(32):
        kit.images.pull(parse(f"{registry.host}/a{number}"))
    with pytest.raises(Problem) as caught:
        kit.images.pull(parse(f"{registry.host}/b"))
    assert caught.value.code is Code.TOO_MANY_PULLS
    kit.images.pull(parse(f"{registry.host}/a0"))
    registry.stopping.set()


# ---- removal


async def test_a_layer_goes_when_nobody_stands_on_it(
    make: Callable[..., Kit], registry: FakeRegistry
) -> None:
    kit = make()
    one, two = await kit.pull(registry.push("a", ONE)), await kit.pull(registry.push("b", TWO))
    await kit.images.remove(one.reference)
    assert kit.layers() == set(two.layer_names), "the shared one stays"
    kit.standing.append(two.layer_names)
    await kit.images.remove(two.reference)
    assert kit.layers() == set(two.layer_names), "a sandbox lives on them"
    assert (await kit.images.disk_use()).reclaimable == 0
    kit.standing.clear()
    assert (await kit.images.disk_use()).reclaimable == 200
    pruned = await kit.images.prune(False)
    assert (kit.layers(), pruned.bytes) == (set(), 200)
    assert sorted(os.listdir(kit.state / "library")) == []
    with pytest.raises(Problem) as caught:
        kit.images.find(one.reference)
    assert caught.value.code is Code.IMAGE_NOT_FOUND


async def test_what_is_held_stays(make: Callable[..., Kit], registry: FakeRegistry) -> None:
    kit = make()
    one = await kit.pull(registry.push("a", ONE))
    with kit.images.hold(one.layer_names):
        await kit.images.remove(one.reference)
        assert kit.layers() == set(one.layer_names)
    await kit.images.prune(False)
    assert kit.layers() == set()


async def test_removal_during_a_pull_of_the_same_layers(
    make: Callable[..., Kit], registry: FakeRegistry
) -> None:
    kit = make()
    one = await kit.pull(registry.push("a", ONE))
    two = registry.push("b", image([BASE, TOP, OTHER]))
    kit.unpacker.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kit.pull, two)
        while not registry.paths(OTHER.digest):
            await trio.sleep(0.001)
        await kit.images.remove(one.reference)
        kit.unpacker.gate.set()
    assert kit.layers() == set(kit.images.find(two).layer_names)
    assert kit.unpacker.removed == []


async def test_prune_all(make: Callable[..., Kit], registry: FakeRegistry) -> None:
    kit = make()
    one, two = await kit.pull(registry.push("a", ONE)), await kit.pull(registry.push("b", TWO))
    kit.standing.append(one.layer_names)
    pruned = await kit.images.prune(True)
    assert pruned.images == (two.reference,)
    assert [image.reference for image in kit.images.list()] == [one.reference]


async def test_leftovers_of_all_kinds(make: Callable[..., Kit], registry: FakeRegistry) -> None:
    """What a kill may leave at any step. The layers of others are not touched."""
    kit = make()
    kept = await kit.pull(registry.push("a", ONE))
    for name in ("i-orphan", "i-half.partial", f"{kept.layer_names[0]}.removed", "t-orphan", "default-1"):
        (kit.unpacker.layers / name).mkdir()
    (kit.state / "blobs" / ("a" * 64)).write_bytes(b"x" * 10)
    (kit.state / "blobs" / ("b" * 64 + ".part")).write_bytes(b"x" * 5)
    (kit.state / "library" / "x.json.new").write_bytes(b"{")
    kit.anew()
    assert (await kit.images.disk_use()).downloads == 15
    pruned = await kit.images.prune(False)
    assert kit.layers() == {*kept.layer_names, "default-1"}
    assert (kit.blobs(), pruned.bytes) == ([], 15)
    assert not (kit.state / "library" / "x.json.new").exists()


async def test_garbage_has_its_time(
    make: Callable[..., Kit], registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an interrupted pull has left is there for the next one, and not for ever."""
    kit = make(image_keep_s=3600)
    kept = await kit.pull(registry.push("a", ONE))
    (kit.unpacker.layers / "i-orphan").mkdir()
    (kit.state / "blobs" / ("b" * 64 + ".part")).write_bytes(b"x" * 5)
    assert await kit.images.layers.collect(3600) == ([], 0)
    assert (len(kit.layers()), len(kit.blobs())) == (3, 1)
    later = time.time() + 3601
    monkeypatch.setattr(layers_module.time, "time", lambda: later)
    kit.nursery.start_soon(kit.images.keep_house)
    with trio.fail_after(30):
        while kit.blobs() or len(kit.layers()) > 2:
            await trio.sleep(0.01)
    assert kit.layers() == set(kept.layer_names)


async def test_a_record_without_its_layers_does_not_count(
    make: Callable[..., Kit], registry: FakeRegistry
) -> None:
    kit = make()
    name = registry.push("a", ONE)
    got = await kit.pull(name)
    await kit.unpacker.task("", "remove-layer", got.layer_names[0], ())
    kit.anew()
    assert kit.images.list() == []
    assert (await kit.pull(name)).digest == got.digest
    (kit.state / "library" / "broken.json").write_bytes(b"{")
    assert [one.reference for one in kit.anew().list()] == [name]


# ---- archives, allow-lists, templates


async def test_an_archive(make: Callable[..., Kit]) -> None:
    kit = make()
    spool = kit.images.spool()
    os.write(spool, layout_tar(ONE, "mine:1"))
    got = await kit.images.import_archive(spool, "")
    os.close(spool)
    assert (got.reference, got.digest) == ("docker.io/library/mine:1", ONE.digest)
    assert (await kit.pull("mine:1", PullPolicy.NEVER)) == got
    assert kit.blobs() == []


@pytest.mark.parametrize(
    ("patterns", "allowed", "refused"),
    [
        (("*",), ["alpine", "evil.example/a:1"], []),
        (
            ("alpine",),
            ["alpine", "alpine:3", "docker.io/library/alpine"],
            ["alpines", "ann/alpine", "e.x/alpine"],
        ),
        (("python:3.*",), ["python:3.12-slim"], ["python", "python:2.7"]),
        (("ann/*",), ["ann/a", "ann/b:1"], ["bob/a", "alpine"]),
        (("ghcr.io/ann/*",), ["ghcr.io/ann/x:1"], ["ghcr.io/bob/x", "ghcr.io.evil/ann/x"]),
        (("ghcr.io",), ["ghcr.io/ann/x:1"], ["ghcr.io.evil/x", "docker.io/library/ghcr"]),
        (("localhost:5000/*",), ["localhost:5000/a"], ["localhost:5001/a", "localhost/a"]),
        (("localhost:5000/a",), ["localhost:5000/a:1"], ["localhost:5000/ab", "localhost:5000/a/b"]),
        ((), [], ["alpine"]),
    ],
)
def test_allowed_images(patterns: tuple[str, ...], allowed: list[str], refused: list[str]) -> None:
    settings = Settings(images_allowed=patterns)
    for name in allowed:
        registries.check_allowed(parse(name), settings)
    for name in refused:
        with pytest.raises(Problem) as caught:
            registries.check_allowed(parse(name), settings)
        assert caught.value.code is Code.IMAGE_NOT_ALLOWED


async def test_what_is_not_allowed_is_not_asked_for(make: Callable[..., Kit], registry: FakeRegistry) -> None:
    kit = make(images_allowed=("alpine",))
    name = registry.push("a", ONE)
    for ask in (lambda: kit.pull(name), lambda: kit.pull(name, PullPolicy.NEVER)):
        with pytest.raises(Problem) as caught:
            await ask()
        assert caught.value.code is Code.IMAGE_NOT_ALLOWED
    with pytest.raises(Problem):
        kit.images.pull(parse(name))
    assert not registry.asked


async def test_what_is_not_allowed_is_not_imported(make: Callable[..., Kit]) -> None:
    """Whether the archive names it or whoever brings it: nobody could create a sandbox from it."""
    kit = make(images_allowed=("mine.example/*",))
    spool = kit.images.spool()
    os.write(spool, layout_tar(ONE, "other:1"))
    for name in ("", "alpine"):
        with pytest.raises(Problem) as caught:
            await kit.images.import_archive(spool, name)
        assert (caught.value.code, caught.value.field) == (Code.IMAGE_NOT_ALLOWED, "name")
    assert (kit.layers(), kit.blobs(), kit.images.list()) == (set(), [], [])
    assert (await kit.images.import_archive(spool, "mine.example/a")).digest == ONE.digest
    os.close(spool)


async def test_where_an_image_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("hub-pw")
    settings = Settings(
        registries={
            "docker.io": Registry(
                mirrors=("m.example:5000", "h.example/hub"),
                username="u",
                password_file=str(tmp_path / "pw"),
            ),
            "m.example:5000": Registry(insecure=True),
            "localhost:1": Registry(insecure=False),
        }
    )  # fmt: skip
    mirror, harbor, hub = registries.endpoints(parse("alpine"), settings)
    assert (mirror[0].base, mirror[1], mirror[0].credentials) == (
        "http://m.example:5000",
        "library/alpine",
        None,
    )
    assert (harbor[0].base, harbor[1], harbor[0].credentials) == (
        "https://h.example",
        "hub/library/alpine",
        None,
    )
    assert hub[0].base == "https://registry-1.docker.io"
    assert hub[0].credentials is not None
    for name, base in (
        ("localhost:5000/a", "http://localhost:5000"),
        ("127.0.0.1:5000/a", "http://127.0.0.1:5000"),
        ("localhost:1/a", "https://localhost:1"),
        ("10.0.0.1:5000/a", "https://10.0.0.1:5000"),
        ("localhost.evil.example/a", "https://localhost.evil.example"),
    ):
        assert registries.endpoints(parse(name), settings)[0][0].base == base


async def test_templates_of_images(make: Callable[..., Kit], registry: FakeRegistry) -> None:
    kit = make()
    name = registry.push("a", ONE)
    files = {
        one.name: one
        for one in (
            TemplateFile(name="tool", image=name, env={"B": "2"}, workdir="/w", user="0", start=("/app",)),
            TemplateFile(name="to-build", image=name, setup=("x",)),
        )
    }
    templates = Templates("tool", kit.images, files)
    got = await templates.obtain("tool")
    assert (got.env, got.workdir, got.user, got.start) == ({"A": "1", "B": "2"}, "/w", "0", ("/app",))
    assert got.shell == ("/bin/sh", "-c")
    assert (await templates.obtain(name)).env == {"A": "1"}
    assert templates.resolve(None, None) == "tool"
    assert templates.resolve(None, name) == name
    assert templates.resolve(None, "docker.io/library/alpine") == "alpine:latest"
    for wrong, code in (
        ("to-build", Code.TEMPLATE_NOT_AVAILABLE),
        ("Not A Name", Code.TEMPLATE_NOT_AVAILABLE),
    ):
        with pytest.raises(Problem) as caught:
            await templates.obtain(wrong)
        assert caught.value.code is code
    with pytest.raises(Problem, match="there are: to-build, tool"):
        templates.resolve("other", None)
    with pytest.raises(Problem) as caught:
        templates.resolve(None, "Not A Name")
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "image")
    ready = {one["id"]: one["ready"] for one in templates.describe()}
    assert ready == {"tool": True, "to-build": False}


async def test_a_built_template_says_what_it_is(make: Callable[..., Kit], registry: FakeRegistry) -> None:
    """Also where its file is not among those that the daemon knows."""
    kit = make()
    image = await kit.pull(registry.push("a", ONE))
    file = TemplateFile(name="mine", image=image.reference, description="With a tool")
    record = msgspec.structs.replace(
        image, reference="template/mine", built=applied(file, image, "mine"), source="x"
    )
    await kit.images.keep(record)
    kit.anew()
    (told,) = Templates("mine", kit.images).describe()
    assert told == {
        "id": "mine", "default": True, "ready": True, "image": image.reference, "description": "With a tool",
    }  # fmt: skip
