from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
import zstandard

from nsbox.cli.archive import outgoing
from nsbox.model.errors import HostProblem
from tests.registries import tools
from tests.registries.images import docker_tar, image, layer

IMAGE = image([layer({"a": b"1" * 5000})])
SAVED = docker_tar(IMAGE, ["saved:1"])


@pytest.mark.parametrize(
    "packed",
    [
        SAVED,
        gzip.compress(SAVED),
        gzip.compress(SAVED[:99]) + gzip.compress(SAVED[99:]),
        zstandard.compress(SAVED),
    ],
    ids=["plain", "gzip", "two members", "zstd"],
)
def test_one_plain_tar_is_sent(tmp_path: Path, packed: bytes) -> None:
    path = tmp_path / "saved"
    path.write_bytes(packed)
    size, pieces = outgoing(str(path))
    assert b"".join(pieces) == SAVED
    assert size == (len(SAVED) if packed is SAVED else None), "its length is told where it is known"


@pytest.mark.parametrize("packed", [gzip.compress(SAVED)[:-20], zstandard.compress(SAVED)[:9] + b"nonsense"])
def test_what_is_damaged_is_told(tmp_path: Path, packed: bytes) -> None:
    path = tmp_path / "saved"
    path.write_bytes(packed)
    _, pieces = outgoing(str(path))
    with pytest.raises(HostProblem, match="the archive is damaged"):
        list(pieces)


def test_a_folder_goes_as_the_layout_alone(tmp_path: Path) -> None:
    tools.write_layout(tmp_path, IMAGE)
    (tmp_path / "secret").write_text("not part of it")
    size, pieces = outgoing(str(tmp_path))
    assert size is None
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        names = {name.split("/")[0] for name in archive.getnames()}
    assert names == {"oci-layout", "index.json", "blobs"}


def test_a_folder_that_is_no_layout(tmp_path: Path) -> None:
    with pytest.raises(HostProblem, match="no file oci-layout"):
        outgoing(str(tmp_path))
    (tmp_path / "oci-layout").write_text("{}")
    _, pieces = outgoing(str(tmp_path))
    with pytest.raises(HostProblem, match=r"index\.json"):
        list(pieces)
