"""``images/*.toml``: templates by name, each an image and what is different about it."""

from __future__ import annotations

import logging
import os
import posixpath
from pathlib import Path

import msgspec

from nsbox.model.errors import HostProblem
from nsbox.oci.reference import BadReference, parse

_log = logging.getLogger(__name__)
#: Made from the host's own files: another kind of file, with its own reader (``recipe``).
_EMBEDDED = "default.toml"
_MAX_FILE = 1 << 20
_MAX_NAME = 128


class TemplateFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file. What is not given is as the image says. ``setup``: commands that are run once, when the
    template is built; what they leave is kept as a layer. ``start``: what runs in each sandbox from its
    beginning; ``start_image``: the image's own entrypoint and command do."""

    name: str
    image: str
    description: str = ""
    env: dict[str, str] = {}
    workdir: str | None = None
    user: str | None = None
    shell: tuple[str, ...] | None = None
    start: tuple[str, ...] = ()
    start_image: bool = False
    setup: tuple[str, ...] = ()
    setup_timeout_s: int = 600

    def __post_init__(self) -> None:
        """Raises ``ValueError``, which msgspec tells as a fault of the file."""
        if not (0 < len(self.name) <= _MAX_NAME and self.name.isprintable()) or self.name == "default":
            raise ValueError("name has 1 to 128 visible characters, and is not 'default'")
        try:
            parse(self.image)
        except BadReference as error:
            raise ValueError(f"image: {error}") from error
        if self.workdir is not None and not self.workdir.startswith("/"):
            raise ValueError("workdir is an absolute path")
        if any("\0" in text for text in (*self.env, *self.env.values(), *self.start, *self.setup)):
            raise ValueError("there is a NUL in it")
        if self.start and self.start_image:
            raise ValueError("give start or start_image, not both")
        if not 1 <= self.setup_timeout_s <= 86_400:
            raise ValueError("setup_timeout_s is 1 to 86400")


def decode(text: bytes) -> TemplateFile:
    """Raises ``HostProblem``."""
    try:
        return msgspec.toml.decode(text[: _MAX_FILE + 1], type=TemplateFile)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HostProblem(f"the template cannot be read: {error}") from error


def read(path: str) -> TemplateFile:
    """One file, named in what is said of it. Raises ``HostProblem``, ``OSError``."""
    with open(path, "rb") as file:
        text = file.read(_MAX_FILE + 1)
    try:
        return decode(text)
    except HostProblem as problem:
        if os.path.basename(path) == _EMBEDDED:
            raise HostProblem(
                f"{path} names no image: it says what of this host goes into the template `default`",
                remedy="nothing is to be built: nsbox serve makes that one when it starts",
            ) from problem
        raise HostProblem(f"{path}: {problem.detail}", remedy=problem.remedy) from problem


def shipped_folder() -> str:
    """Within the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "_images"
    return str(inside if inside.is_dir() else package.parent / "images")


def load(folder: str) -> dict[str, TemplateFile]:
    """All files of a folder, by name. One that is wrong is told and passed over: the others still serve."""
    found: dict[str, TemplateFile] = {}
    if not folder or not os.path.isdir(folder):
        return found
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".toml") or name == _EMBEDDED:
            continue
        path = posixpath.join(folder, name)
        try:
            template = read(path)
        except (HostProblem, OSError) as error:
            _log.warning("a template is passed over: %s", error)
            continue
        found[template.name] = template
    return found
