"""Row 1 of the acceptance list: whatever a layer holds, nothing outside of it changes, and nothing is left
behind.

Each case goes through a real keeper and the real worker. The canary lies where everybody may write: were the
layer's walls not there, the unpacker could change it, as the tests at the end show by taking them away.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator

import pytest

from nsbox.oci.layers import Compression
from tests.acceptance.plugin import Say
from tests.security import hostile_layers, tar_maker
from tests.security.hostile_layers import Case
from tests.security.unpack_lab import Lab, Unpacked, fingerprint, lab

pytestmark = pytest.mark.namespaces

_CASES = hostile_layers.cases(b"/var/tmp/nowhere")
_FUZZ_SECONDS = float(os.environ.get("NSBOX_FUZZ_SECONDS") or 10)


@pytest.fixture(scope="module")
def place() -> Iterator[Lab]:
    with lab() as made:
        os.mkdir(f"{made.state_dir}/layers/neighbour", 0o777)
        yield made


@pytest.fixture(scope="module")
def canary() -> Iterator[str]:
    """Anybody's to change."""
    path = tempfile.mkdtemp(prefix="nsbox-canary-", dir="/var/tmp")
    os.mkdir(f"{path}/folder")
    for name in ("file", "folder/inner"):
        with open(f"{path}/{name}", "wb") as file:
            file.write(b"alive")
        os.chmod(f"{path}/{name}", 0o666)
    os.symlink("file", f"{path}/link")
    for name in ("", "folder"):
        os.chmod(f"{path}/{name}", 0o777)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def tally(request: pytest.FixtureRequest) -> Iterator[dict[str, int]]:
    """Counts, printed when all cases are through: cases, escapes."""
    counted = {"cases": 0, "refused": 0, "harmless": 0, "escapes": 0, "fuzzed": 0}
    yield counted
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\nhostile layers: " + ", ".join(f"{name} = {count}" for name, count in counted.items()))


def test_there_are_enough_and_all_have_names() -> None:
    names = [case.name for case in _CASES]
    assert len(names) >= 60
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("number", range(len(_CASES)), ids=[case.name.replace(" ", "-") for case in _CASES])
async def test_nothing_outside_changes(
    place: Lab, canary: str, tally: dict[str, int], number: int, figure: Say
) -> None:
    case = hostile_layers.cases(canary.encode())[number]
    before, others = fingerprint(canary), place.left()
    made = await place.unpack(case.blob, compression=case.compression, caps=case.caps, diff_id=case.diff_id)
    tally["cases"] += 1
    escaped = fingerprint(canary) != before
    tally["escapes"] += escaped
    figure(1, tried=1, bad=escaped)
    assert place.left() == others, "nothing is left behind"
    tally["harmless" if made.report else "refused"] += 1
    _judge(case, made)


def _judge(case: Case, made: Unpacked) -> None:
    if isinstance(case.wants, str):
        if made.report is None or "or harmless" not in case.wants:
            assert made.reason == case.wants.partition(" ")[0], made
            assert made.refusal is not None
            assert 0 < len(made.refusal.detail) < 1000
            assert made.refusal.detail.isprintable(), "what the image says goes into logs and terminals"
        return
    assert made.report is not None, made.refusal
    inside = {name: seen for name, seen in made.tree.items() if name != "." and name.split("/")[0] != "var"}
    assert {name: seen.kind for name, seen in inside.items()} == case.wants
    for name, seen in made.tree.items():
        assert 0 <= seen.uid < 65_536, name
        assert 0 <= seen.gid < 65_536, name
        assert all(
            key in ("user.overlay.opaque", "security.capability") or not key.startswith("user.overlay.")
            for key in seen.xattrs
        ), (name, seen.xattrs)
        assert "user.overlay.opaque" not in seen.xattrs or seen.kind == "d", (name, seen.xattrs)


async def test_fuzzed_archives(place: Lab, canary: str, tally: dict[str, int], figure: Say) -> None:
    """Pieces of hostile archives in any order, with bytes changed here and there."""
    # The same ones every time, as many as the time allows; others are asked for by their seed.
    seed = int(os.environ.get("NSBOX_FUZZ_SEED") or 20261125)
    print(f"NSBOX_FUZZ_SEED={seed}")
    chosen = random.Random(seed)
    pieces = [
        case.blob for case in hostile_layers.cases(canary.encode()) if case.compression is Compression.NONE
    ]
    pieces = [piece.removesuffix(tar_maker.END) for piece in pieces if 0 < len(piece) < 20_000]
    before, others = fingerprint(canary), place.left()
    deadline = time.monotonic() + _FUZZ_SECONDS
    while time.monotonic() < deadline:
        data = bytearray(b"".join(chosen.choices(pieces, k=chosen.randint(1, 8))) + tar_maker.END)
        for _ in range(chosen.choice((0, 0, 1, 3))):
            data[chosen.randrange(len(data))] = chosen.randrange(256)
        made = await place.unpack(bytes(data))
        tally["fuzzed"] += 1
        if fingerprint(canary) != before:
            tally["escapes"] += 1
            figure(1, tried=tally["fuzzed"], bad=1)
        assert place.left() == others
        assert made.reason not in ("internal", "host"), (seed, made.refusal)
    figure(1, tried=tally["fuzzed"])


# with walls taken away


def _changed_by(place: Lab, name: str, *walls: str) -> bool:
    """Whether the case ``name`` changes a canary when ``walls`` are missing."""
    path = tempfile.mkdtemp(prefix="nsbox-canary-", dir="/var/tmp")
    try:
        with open(f"{path}/file", "wb") as file:
            file.write(b"alive")
        os.chmod(f"{path}/file", 0o666)
        os.chmod(path, 0o777)
        before = fingerprint(path)
        case = next(one for one in hostile_layers.cases(path.encode()) if one.name == name)
        place.weakened(case.blob, *walls)
        shutil.rmtree(f"{place.state_dir}/layers/weak", ignore_errors=True)
        return fingerprint(path) != before
    finally:
        shutil.rmtree(path)


_THROUGH_LINKS = (
    "absolute symlink, then a file through it",
    "relative symlink, then a file through it",
    "two symlinks that climb together",
    "a whiteout through a symlink",
    "an opaque mark through a symlink",
    "a FIFO through a symlink",
)


@pytest.mark.parametrize("name", _THROUGH_LINKS)
def test_the_pivot_and_the_walk_bite(place: Lab, name: str) -> None:
    """Each of the two is enough; without both the layer gets out."""
    assert not _changed_by(place, name)
    assert not _changed_by(place, name, "pivot"), "links are not followed"
    assert not _changed_by(place, name, "nofollow"), "there is nothing outside"
    assert _changed_by(place, name, "pivot", "nofollow")


def test_the_pivot_holds_without_any_check_of_names(place: Lab) -> None:
    for name in ("dot-dot to the canary", "dot-dot by a pax path", "dot-dot by a GNU long name"):
        assert not _changed_by(place, name, "dot-dot", "nofollow")
        assert _changed_by(place, name, "dot-dot", "nofollow", "pivot"), name


def test_the_choice_of_attributes_bites(place: Lab) -> None:
    case = next(one for one in _CASES if one.name == "forged overlay.redirect")
    for walls, found in ((), False), (("overlay",), True):
        assert place.weakened(case.blob, *walls)["entries"] == 1
        names = os.listxattr(f"{place.state_dir}/layers/weak/f")
        shutil.rmtree(f"{place.state_dir}/layers/weak")
        assert ("user.overlay.redirect" in names) is found
