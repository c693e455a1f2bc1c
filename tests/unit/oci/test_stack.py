from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from nsbox.oci.stack import Stack, has_folder, has_shell


def made(folder: Path, name: str, files: dict[str, str | None]) -> str:
    """A layer: None is a folder, text with an arrow a symlink, other text a program; ``!`` a whiteout."""
    top = folder / name
    top.mkdir()
    for path, content in files.items():
        place = top / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            place.mkdir(exist_ok=True)
        elif content.startswith("-> "):
            place.symlink_to(content[3:])
        elif content == "!":
            try:
                os.mknod(place, stat.S_IFCHR, 0)
            except PermissionError:
                pytest.skip("this user cannot make a whiteout")
        else:
            place.write_text(content)
            place.chmod(0o755)
    return str(top)


def test_a_shell(tmp_path: Path) -> None:
    plain = made(tmp_path, "plain", {"bin/sh": "x"})
    merged = made(tmp_path, "merged", {"usr/bin/sh": "-> dash", "usr/bin/dash": "x", "bin": "-> usr/bin"})
    busybox = made(tmp_path, "busybox", {"bin/busybox": "x", "bin/sh": "-> /bin/busybox"})
    none = made(tmp_path, "none", {"app": "x"})
    assert has_shell([plain])
    assert has_shell([merged])
    assert has_shell([busybox])
    assert has_shell([none, busybox])
    assert not has_shell([none])


@pytest.mark.parametrize(
    "files",
    [
        {"bin/sh": "-> /bin/missing"},
        {"bin/sh": "-> sh"},
        {"bin/sh": "-> ../../../../../../bin/cat"},  # .. ends at the top, so this is /bin/cat of the image
        {"bin/sh": None},
        {"bin": "x"},
        {"bin": "-> /etc"},
    ],
)
def test_no_shell(tmp_path: Path, files: dict[str, str | None]) -> None:
    assert os.path.exists("/bin/cat")
    assert not has_shell([made(tmp_path, "layer", files)])


def test_one_that_is_not_executable(tmp_path: Path) -> None:
    top = made(tmp_path, "layer", {"bin/sh": "x"})
    os.chmod(f"{top}/bin/sh", 0o644)
    assert not has_shell([top])


def test_links_lead_nowhere_but_inside(tmp_path: Path) -> None:
    """/bin of the layer is a link to a folder of this host that has a shell."""
    assert os.path.exists("/usr/bin/sh")
    assert not has_shell([made(tmp_path, "absolute", {"bin": "-> /usr/bin"})])
    inside = made(tmp_path, "inside", {"bin": "-> /usr/bin", "usr/bin/sh": "x"})
    assert has_shell([inside])


def test_whiteouts_and_files_cover(tmp_path: Path) -> None:
    lower = made(tmp_path, "lower", {"bin/sh": "x", "app/x": "x"})
    assert not has_shell([made(tmp_path, "gone", {"bin/sh": "!"}), lower])
    assert not has_shell([made(tmp_path, "all", {"bin": "!"}), lower])
    assert not has_shell([made(tmp_path, "file", {"bin": "x"}), lower])
    assert has_shell([made(tmp_path, "back", {"bin/sh": "x"}), made(tmp_path, "g", {"bin/sh": "!"}), lower])


def test_an_opaque_folder_covers(tmp_path: Path) -> None:
    lower = made(tmp_path, "lower", {"bin/sh": "x"})
    upper = made(tmp_path, "upper", {"bin/other": "x"})
    assert has_shell([upper, lower])
    try:
        os.setxattr(f"{upper}/bin", "user.overlay.opaque", b"y")
    except OSError:
        pytest.skip("no user attributes on this file system")
    assert not has_shell([upper, lower])


def test_folders(tmp_path: Path) -> None:
    layers = [made(tmp_path, "a", {"srv/app/x": "x", "link": "-> srv", "file": "x"})]
    for path in ("/", "/srv/app", "/link/app", "/link/../srv"):
        assert has_folder(layers, path), path
    for path in ("/file", "/none", "/file/x", "/srv/app/x/y"):
        assert not has_folder(layers, path), path


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    loop = made(tmp_path, "loop", {"a": "-> b", "b": "-> a"})
    assert Stack([loop]).mode("/a/x") is None
