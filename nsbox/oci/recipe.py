"""``images/default.toml``: what is wanted of the host, before anybody has looked at it."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from nsbox.model.errors import HostProblem
from nsbox.oci.manifest import Config


class Programs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names, and the folders they are looked for in. ``also`` may be in ``also_in`` too."""

    folders: tuple[str, ...]
    also_in: str
    also: tuple[str, ...]
    required: tuple[str, ...]
    optional: tuple[str, ...]


class Extras(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Taken where the host has them."""

    optional: tuple[str, ...]


class Tree(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A folder with all that is in it, but for what the patterns leave out."""

    path: str
    required: bool = False
    keep: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    name: str
    description: str
    config: Config
    programs: Programs
    libraries: Extras
    files: Extras
    trees: tuple[Tree, ...]


def recipe_bytes(name: str = "default") -> bytes:
    """The file as it was shipped: within the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_images", package.parent / "images"):
        try:
            return (folder / f"{name}.toml").read_bytes()
        except FileNotFoundError:
            continue
    raise HostProblem(f"images/{name}.toml is missing from this installation", remedy="reinstall nsbox")


def decode(text: bytes) -> Recipe:
    """Raises ``msgspec.ValidationError`` for a name that means nothing here."""
    return msgspec.toml.decode(text, type=Recipe)


def expand(text: str, names: Mapping[str, str]) -> str:
    """Put in what only the host can tell: ``{python}``, ``{prefix}``, ``{libdir}``."""
    for name, value in names.items():
        text = text.replace("{" + name + "}", value)
    return text


class Matcher:
    """The ``keep`` and ``skip`` patterns of one tree, compiled into one expression each."""

    def __init__(self, tree: Tree) -> None:
        self._keep = _any_of(tree.keep)
        self._skip_paths = _any_of(pattern for pattern in tree.skip if pattern.startswith("/"))
        self._skip_names = _any_of(pattern for pattern in tree.skip if not pattern.startswith("/"))

    def wants(self, path: str, name: str) -> bool:
        """``path`` begins with a slash, which is the top of the tree."""
        if self._keep and path.count("/") == 1 and not self._keep.match(path):
            return False
        if self._skip_paths and self._skip_paths.match(path):
            return False
        return not (self._skip_names and self._skip_names.match(name))


def _any_of(patterns: Iterable[str]) -> re.Pattern[str] | None:
    # fnmatch's * matches slashes too; in a pattern for paths it must not.
    texts = [fnmatch.translate(pattern).replace(".*", "[^/]*") for pattern in patterns]
    return re.compile("|".join(texts)) if texts else None
