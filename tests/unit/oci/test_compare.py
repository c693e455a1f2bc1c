from __future__ import annotations

import base64
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.oci.placing import FOLDER
from nsbox.oci.snapshots.compare import Comparison
from nsbox.oci.snapshots.copier import OPAQUE


def page(upper: Path, lower: Path, after: bytes = b"", limit: int = 10_000) -> tuple[list[Any], bytes]:
    over, under = os.open(upper, FOLDER), os.open(lower, FOLDER)
    try:
        told = Comparison(over, under, after, limit).run()
    finally:
        os.close(over)
        os.close(under)
    changes = [(base64.b64decode(one["path"]).decode(), one["kind"]) for one in told["changes"]]
    return changes, base64.urlsafe_b64decode(told["after"])


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for tree in (upper, lower):
        tree.mkdir()
    return upper, lower


def test_files(trees: tuple[Path, Path]) -> None:
    upper, lower = trees
    (lower / "both").write_text("old")
    (upper / "both").write_text("new")
    (lower / "gone").write_text("old")
    os.mknod(upper / "gone", stat.S_IFCHR, 0)
    os.mknod(upper / "never-was", stat.S_IFCHR, 0)
    (upper / "new").symlink_to("nowhere")
    (lower / "untouched").write_text("")
    assert page(upper, lower) == ([("both", "modified"), ("gone", "deleted"), ("new", "added")], b"")


def test_folders(trees: tuple[Path, Path]) -> None:
    upper, lower = trees
    for tree in (upper, lower):
        for name in ("same", "mode", "opaque"):
            (tree / name).mkdir(mode=0o755)
    (upper / "mode").chmod(0o700)
    (upper / "new").mkdir()
    (upper / "new" / "file").write_text("")
    (lower / "opaque" / "old").write_text("")
    (lower / "opaque" / "sub").mkdir()
    (lower / "opaque" / "sub" / "deep").write_text("")
    (upper / "opaque" / "sub").mkdir()
    (upper / "opaque" / "fresh").write_text("")
    os.setxattr(upper / "opaque", OPAQUE, b"y")
    assert page(upper, lower)[0] == [
        ("mode", "modified"),
        ("new", "added"),
        ("new/file", "added"),
        ("opaque/fresh", "added"),
        ("opaque/old", "deleted"),
        ("opaque/sub/deep", "deleted"),
    ]


def test_a_folder_that_was_a_file_and_the_reverse(trees: tuple[Path, Path]) -> None:
    upper, lower = trees
    (lower / "a").write_text("")
    (upper / "a").mkdir()
    (upper / "a" / "in").write_text("")
    (lower / "b").mkdir()
    (lower / "b" / "in").write_text("")
    (upper / "b").write_text("")
    assert page(upper, lower)[0] == [("a", "modified"), ("a/in", "added"), ("b", "modified")]


def test_whiteouts_of_the_lower_tree_are_nothing(trees: tuple[Path, Path]) -> None:
    upper, lower = trees
    os.mknod(lower / "x", stat.S_IFCHR, 0)
    (upper / "x").write_text("")
    assert page(upper, lower)[0] == [("x", "added")]


NAMES = st.sampled_from(["a", "b", "ab", "a.b", "b-", "é"])
#: A tree as nested dictionaries; None is a file.
TREES = st.recursive(
    st.none(), lambda inner: st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
).filter(lambda tree: tree is not None)


def make(tree: dict[str, Any], where: Path) -> None:
    where.mkdir()
    for name, inner in tree.items():
        if inner is None:
            (where / name).write_text("x")
        else:
            make(inner, where / name)


@given(upper=TREES, lower=TREES, limit=st.integers(1, 4))
def test_pages_are_the_whole(
    tmp_path_factory: pytest.TempPathFactory, upper: Any, lower: Any, limit: int
) -> None:
    top = tmp_path_factory.mktemp("trees")
    try:
        make(upper, top / "upper")
        make(lower, top / "lower")
        whole, _ = page(top / "upper", top / "lower")
        found: list[Any] = []
        after = b""
        while True:
            part, after = page(top / "upper", top / "lower", after, limit)
            found += part
            assert len(part) <= limit
            if not after:
                break
        assert found == whole
        assert [path for path, _ in whole] == sorted({path for path, _ in whole}, key=_parts)
    finally:
        shutil.rmtree(top)


def _parts(path: str) -> list[bytes]:
    return [part.encode() for part in path.split("/")]
