"""``requirements.lock``: what a release is installed with, each archive by its hash."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOP: Final = Path(__file__).parents[2]
LOCK: Final = TOP / "requirements.lock"

#: What nsbox runs on, as markers see it.
PYTHONS: Final = ("3.11", "3.12", "3.13")
_LINUX: Final = {
    "sys_platform": "linux", "os_name": "posix", "platform_system": "Linux", "implementation_name": "cpython",
    "platform_python_implementation": "CPython", "extra": "",
}  # fmt: skip


class Pin(NamedTuple):
    """One release of a package, for those versions of Python."""

    name: str
    version: str
    pythons: tuple[str, ...]
    hashes: tuple[str, ...]


def pins(text: str) -> Iterator[Pin]:
    """Of a lock as pip and uv write it: one requirement, and its hashes on the lines after."""
    for block in re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"(?m)^#.*\n?", "", text).strip()):
        line, *hashes = (one.strip(" \\") for one in block.splitlines())
        wanted = Requirement(line)
        (only,) = wanted.specifier
        if only.operator != "==":
            raise ValueError(f"{line}: not one version")
        on = tuple(one for one in PYTHONS if wanted.marker is None or _holds(wanted.marker, one))
        yield Pin(wanted.name, only.version, on, tuple(one.removeprefix("--hash=") for one in hashes if one))


def _holds(marker: Marker, python: str) -> bool:
    return marker.evaluate({**_LINUX, "python_version": python, "python_full_version": f"{python}.9"})


def line(pin: Pin) -> str:
    """As pip reads it. Markers say what tells the supported versions apart, and nothing of other systems."""
    marker = ""
    if pin.pythons != PYTHONS:
        first, last = pin.pythons[0], pin.pythons[-1]
        bounds = [] if first == PYTHONS[0] else [f'python_version >= "{first}"']
        bounds += [] if last == PYTHONS[-1] else [f'python_version <= "{last}"']
        marker = " ; " + " and ".join(bounds)
    return " \\\n".join([f"{pin.name}=={pin.version}{marker}", *(f"    --hash={one}" for one in pin.hashes)])


def dependencies() -> list[Requirement]:
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(one) for one in project["dependencies"]]


def complaints(text: str) -> Iterator[str]:
    """What is wrong with a lock, offline: what pyproject.toml wants has one version of it for every Python,
    and each has hashes. An address would tie a release to one index."""
    found = list(pins(text))
    for wanted in dependencies():
        name = canonicalize_name(wanted.name)
        for python in PYTHONS:
            if wanted.marker is not None and not _holds(wanted.marker, python):
                continue
            mine = [one for one in found if canonicalize_name(one.name) == name and python in one.pythons]
            if len(mine) != 1:
                yield f"{wanted.name}: {len(mine)} versions for Python {python}"
            elif not wanted.specifier.contains(mine[0].version):
                yield f"{wanted} is wanted, and {mine[0].version} locked"
    yield from (f"{one.name} has no hash" for one in found if not one.hashes)
    for one in found:
        yield from (f"{one.name}: {each} is no sha256" for each in one.hashes if not _SHA256.fullmatch(each))
    if "://" in text:
        yield "it names an address"


_SHA256: Final = re.compile("sha256:[0-9a-f]{64}")


def main() -> int:
    wrong = list(complaints(LOCK.read_text(encoding="utf-8")))
    print("\n".join([*wrong, *(["remedy: sh scripts/lock"] if wrong else [])]))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
