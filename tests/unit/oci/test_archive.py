from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nsbox.oci.archive import ArchiveSource
from nsbox.oci.blobs import Blobs
from nsbox.oci.layers import Compression
from nsbox.oci.manifests import BadImage, Platform
from nsbox.oci.sources import Found
from tests.registries.images import docker_tar, image, layer, layout_tar, sha256, tar

AMD64 = Platform("linux", "amd64")
IMAGE = image([layer({"a": b"1"}), layer({"b": b"2"}, "zstd"), layer({"c": b"3"}, "none")], User="app")


class Opened:
    """An archive in memory, as a source."""

    def __init__(self, data: bytes, name: str = "", most: int = 1 << 30) -> None:
        self.descriptor = os.memfd_create("archive", os.MFD_CLOEXEC)
        os.write(self.descriptor, data)
        self.source = ArchiveSource(self.descriptor, name, AMD64, most_bytes=most)

    def __enter__(self) -> ArchiveSource:
        return self.source

    def __exit__(self, *error: object) -> None:
        os.close(self.descriptor)


async def brought(source: ArchiveSource, folder: Path) -> tuple[Found, list[bytes]]:
    found = await source.find()
    blobs = Blobs(str(folder))
    data = []
    for part in found.parts:
        await source.bring(part, blobs, lambda _: None)
        data.append(Path(blobs.path(part.digest)).read_bytes())
    return found, data


async def test_a_layout(tmp_path: Path) -> None:
    with Opened(layout_tar(IMAGE, "example.com/a:1")) as source:
        found, data = await brought(source, tmp_path)
    assert (found.reference, found.digest, found.config.user) == ("example.com/a:1", IMAGE.digest, "app")
    assert data == [one.blob for one in IMAGE.layers]
    packed = [part.compression for part in found.parts]
    assert packed == [Compression.GZIP, Compression.ZSTD, Compression.NONE]


async def test_what_docker_saves(tmp_path: Path) -> None:
    plain = image([layer({"a": b"1"}, "none"), layer({"b": b"2"}, "gzip")])
    with Opened(docker_tar(plain, ["a/b:1"])) as source:
        found, data = await brought(source, tmp_path)
    assert found.reference == "docker.io/a/b:1"
    assert data == [one.blob for one in plain.layers]
    assert [part.compression for part in found.parts] == [Compression.NONE, Compression.GZIP]
    assert [part.diff_id for part in found.parts] == [one.diff_id for one in plain.layers]


async def test_links_between_layers(tmp_path: Path) -> None:
    one = layer({"a": b"1"}, "none")
    made = image([one, one])
    data = docker_tar(made, ["a:1"], **{"1/layer.tar": "../0/layer.tar"})
    with Opened(data) as source:
        _, blobs = await brought(source, tmp_path)
    assert blobs == [one.blob] * 2


async def test_the_name() -> None:
    for data in (layout_tar(IMAGE), docker_tar(IMAGE), layout_tar(IMAGE, "Not A Name")):
        with Opened(data) as source, pytest.raises(BadImage, match="name"):
            await source.find()
        with Opened(data, "mine:2") as source:
            assert (await source.find()).reference == "docker.io/library/mine:2"


async def test_one_of_several() -> None:
    other = image([layer({"x": b"9"})])
    entries = []
    for made, name in ((IMAGE, "a:1"), (other, "b:2")):
        entries.append(made.descriptor(annotations={"io.containerd.image.name": name}))
    both = layout_tar(
        IMAGE._replace(blobs={**IMAGE.blobs, **other.blobs, other.digest: other.manifest}), top=entries
    )
    with Opened(both, "b:2") as source:
        assert (await source.find()).digest == other.digest
    with Opened(both) as source, pytest.raises(BadImage, match="a:1, b:2"):
        await source.find()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "tar"),
        (b"x" * 2000, "tar"),
        (tar({"a": b"1"}), "neither an index.json"),
        (tar({"index.json": b"x"}), "not what it should be"),
        (tar({"index.json": json.dumps({"manifests": []}).encode()}), "0 images"),
        (tar({"manifest.json": b"[]"}), "0 images"),
        (tar({"manifest.json": b"{}"}), "not what it should be"),
        (tar({"manifest.json": b'[{"Config":"c","Layers":[]}]'}), "lacks 'c'"),
        (tar({"manifest.json": b'[{"Config":"../../etc/passwd","Layers":[]}]'}), "lacks"),
        (docker_tar(IMAGE, ["a"], **{"0/layer.tar": "0/layer.tar"}), "nowhere|lacks"),
        (docker_tar(IMAGE, ["a"], **{"0/layer.tar": "/etc/passwd"}), "lacks"),
        (docker_tar(IMAGE, ["a"], **{"0/layer.tar": "../../../etc/passwd"}), "lacks"),
        (b"\x1f\x8b" + bytes(100), "compressed"),
        (layout_tar(IMAGE, "a")[: len(layout_tar(IMAGE, "a")) // 2], "cut short|lacks|tar"),
    ],
)
async def test_what_is_no_archive(data: bytes, sentence: str) -> None:
    with Opened(data) as source, pytest.raises(BadImage, match=sentence):
        await source.find()


def raw(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


async def test_two_members_of_one_name() -> None:
    pair = raw((tarfile.TarInfo("index.json"), b"{}"), (tarfile.TarInfo("./index.json"), b"[]"))
    with Opened(pair) as source, pytest.raises(BadImage, match="twice"):
        await source.find()


async def test_devices() -> None:
    info = tarfile.TarInfo("x")
    info.type = tarfile.CHRTYPE
    with Opened(raw((info, b""))) as source, pytest.raises(BadImage, match="neither a file nor a link"):
        await source.find()


async def test_a_header_that_claims_gigabytes() -> None:
    """tarfile reads a pax header whole, whatever size it claims."""
    info = tarfile.TarInfo("pax")
    info.type = tarfile.XHDTYPE
    info.size = 5 << 30
    data = info.tobuf(tarfile.PAX_FORMAT) + bytes(4096)
    with Opened(data) as source, pytest.raises(BadImage, match="absurd"):
        await source.find()


async def test_blobs_that_are_not_what_they_are_called(tmp_path: Path) -> None:
    digest = IMAGE.layers[0].digest
    wrong = IMAGE._replace(blobs={**IMAGE.blobs, digest: b"?" * len(IMAGE.blobs[digest])})
    with Opened(layout_tar(wrong, "a")) as source, pytest.raises(BadImage, match="damaged"):
        await brought(source, tmp_path)
    assert not [one for one in Blobs(str(tmp_path)).entries() if one[0] == digest]
    shorter = IMAGE._replace(blobs={**IMAGE.blobs, digest: b"?"})
    with Opened(layout_tar(shorter, "a")) as source, pytest.raises(BadImage, match="1 bytes"):
        await source.find()
    manifest = IMAGE.manifest.replace(b'"size"', b'"Size"', 1)
    config = sha256(IMAGE.config)
    other = IMAGE._replace(blobs={**IMAGE.blobs, config: IMAGE.config + b" ", IMAGE.digest: manifest})
    with Opened(layout_tar(other, "a")) as source, pytest.raises(BadImage, match="something else"):
        await source.find()
    altered = IMAGE.manifest + b" "
    under = IMAGE._replace(manifest=altered, blobs={**IMAGE.blobs, IMAGE.digest: altered})
    with (
        Opened(layout_tar(under, top=[IMAGE.descriptor()])) as source,
        pytest.raises(BadImage, match=f"something else as {IMAGE.digest}"),
    ):
        await source.find()


async def test_too_large() -> None:
    for data in (layout_tar(IMAGE, "a"), docker_tar(IMAGE, ["a"])):
        with Opened(data, most=10) as source, pytest.raises(BadImage, match="max_image_bytes"):
            await source.find()


@pytest.fixture(scope="module")
def whole() -> bytes:
    return layout_tar(IMAGE, "a:1")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_archive_is_read_or_refused(whole: bytes, data: st.DataObject) -> None:
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with Opened(bytes(damaged)) as source:
        try:
            source._find()
        except BadImage:
            pass
