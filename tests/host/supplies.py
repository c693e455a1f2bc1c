"""What is carried into the machine, made ready outside of it with this host's own pip: the wheel of this
checkout (and a later version of it, to upgrade to), all that it needs, and the tests' own tools."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from tests.host import places
from tests.host.words import RigError, say

CHECKOUT = Path(__file__).parents[2]
#: The machine's Python is Debian 12's: compiled wheels are downloaded for the Python that downloads them.
_PYTHON = (3, 11)
#: What pipx and the build of python-prctl fetch, which no requirement of nsbox names.
_BUILD_TOOLS = ("pip", "setuptools", "wheel")
_TEST_TOOLS = ("pytest", "pytest-trio", "hypothesis", "requests", "trio-websocket", "schemathesis")
#: What the tests read of a checkout; nsbox itself is not among it, since the installed one is tested.
_OF_CHECKOUT = ("tests", "docs", "README.md", "pyproject.toml", "nsbox.service")
UPGRADE_VERSION = "99.0.0"


def prepare(target: Path) -> None:
    """Fill ``target`` with ``dist/``, ``next/``, ``wheels/``, ``tools/`` and ``checkout/``."""
    if sys.version_info[:2] != _PYTHON:
        raise RigError(
            f"this is Python {sys.version.split()[0]}; it takes the machine's, which is Debian 12's: 3.11"
        )
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    say("building the wheel of this checkout, and one of a later version")
    _wheel(CHECKOUT, target / "dist")
    _later_wheel(str(project["version"]), target)
    wheels, tools = _downloaded(project)
    shutil.copytree(wheels, target / "wheels")
    shutil.copytree(tools, target / "tools")
    (target / "checkout").mkdir()
    for name in _OF_CHECKOUT:
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, target / "checkout" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target / "checkout" / name)


def _pip(*arguments: str) -> None:
    """This host's pip with this host's configuration: where it finds packages is its own business."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env=places.environment(PIP_NO_INPUT="1", PIP_DISABLE_PIP_VERSION_CHECK="1"),
    )
    if done.returncode:
        raise RigError(
            f"pip {arguments[0]} failed, so the machine cannot be supplied:\n{done.stdout[-3000:]}"
        )


def _wheel(source: Path, target: Path) -> None:
    # Hatchling is a tool of development, so it is here already.
    _pip("wheel", "-q", "--no-deps", "--no-build-isolation", "--no-cache-dir", "-w", str(target), str(source))


def _later_wheel(version: str, target: Path) -> None:
    """The same sources with another version, which is all that tells an upgrade from the old one."""
    copy = target / "later"
    copy.mkdir()
    for name in ("nsbox", "bench", "images", "pyproject.toml", "README.md", "LICENSE", "nsbox.service"):
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, copy / name)
    for path in (copy / "pyproject.toml", copy / "nsbox" / "__init__.py"):
        text = path.read_text()
        if version not in text:
            raise RigError(f"{path.name} does not name the version {version}")
        path.write_text(text.replace(version, UPGRADE_VERSION, 1))
    _wheel(copy, target / "next")
    shutil.rmtree(copy)


def _downloaded(project: dict[str, Any]) -> tuple[Path, Path]:
    """Archives that nsbox needs, and a folder with the tests' tools; both from the cache while the
    requirements are the same."""
    tools = [one for one in project["optional-dependencies"]["dev"] if one.partition(">")[0] in _TEST_TOOLS]
    wanted = [*project["dependencies"], *_BUILD_TOOLS]
    key = hashlib.sha256("\n".join([*wanted, *tools, sys.version]).encode()).hexdigest()[:16]
    final = places.cache() / f"supplies-{key}"
    if not final.exists():
        say("downloading what nsbox and its tests need (once)")
        making = places.cache() / f"supplies-making-{os.getpid()}"
        try:
            _pip("download", "-q", "-d", str(making / "wheels"), *wanted)
            # Two dependencies are source archives, which ask for more when they are built.
            _pip("install", "-q", "--no-compile", "--target", str(making / "tools"), *tools)
            making.rename(final)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return final / "wheels", final / "tools"
