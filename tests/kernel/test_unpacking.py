"""Layers unpacked by the real worker, behind its walls: what comes out."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

import pytest

from tests.security.unpack_lab import Lab, lab

pytestmark = pytest.mark.namespaces


@pytest.fixture(scope="module")
def place() -> Iterator[Lab]:
    with lab() as made:
        yield made


async def test_one_file(place: Lab) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("a/b/c")
        info.size, info.mode, info.uid, info.gid, info.mtime = 5, 0o4755, 33, 44, 12345.5
        tar.addfile(info, io.BytesIO(b"hello"))
    made = await place.unpack(out.getvalue())
    assert made.report is not None, made.refusal
    print(made.report)
    file = made.tree["a/b/c"]
    assert (file.content, file.permissions, file.uid, file.gid, file.mtime_ns) == (
        b"hello",
        0o4755,
        33,
        44,
        12345500000000,
    )
    assert made.tree["a"].permissions == 0o755
