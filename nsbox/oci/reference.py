"""Names of images, read as Docker reads them. Pure.

``alpine`` is ``docker.io/library/alpine:latest``; ``localhost:5000/a`` and ``ghcr.io/a/b`` name their
registry, ``a/b`` does not. The grammar is that of the distribution project's ``reference`` package.
"""

from __future__ import annotations

import re

import msgspec

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
#: Where Docker Hub really answers: docker.io itself has a web site.
_HUB_HOST = "registry-1.docker.io"
_OFFICIAL = "library/"

MAX_LENGTH = 512
_MAX_NAME = 255

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]{{1,5}})?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_HOST_RE = re.compile(_HOST)
_PATH_RE = re.compile(_PATH)
_TAG_RE = re.compile(_TAG)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ANY_DIGEST = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}")
_HEX_ID = re.compile(r"[0-9a-f]{64}")


class BadReference(Exception):
    """Not the name of an image. The sentence says why."""


class Reference(msgspec.Struct, frozen=True):
    """An image's name. ``digest`` wins over ``tag`` where both are there; one of them always is."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        return self._joined(f"{self.registry}/{self.repository}")

    @property
    def familiar(self) -> str:
        """As people write it: without what is understood."""
        if self.registry != DEFAULT_REGISTRY:
            return str(self)
        repository = self.repository
        if repository.count("/") == 1:
            repository = repository.removeprefix(_OFFICIAL)
        return self._joined(repository)

    def _joined(self, name: str) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{name}{tag}{digest}"

    @property
    def host(self) -> str:
        """Host and port to connect to."""
        return _HUB_HOST if self.registry == DEFAULT_REGISTRY else self.registry

    @property
    def wanted(self) -> str:
        """What a manifest is asked by."""
        return self.digest or self.tag


def parse(text: str) -> Reference:
    """Raises ``BadReference``."""
    if not text or len(text) > MAX_LENGTH:
        raise BadReference(f"the name of an image has 1 to {MAX_LENGTH} characters")
    if _HEX_ID.fullmatch(text):
        raise BadReference("64 hexadecimal digits are an image's id, not its name")
    rest, at, digest = text.partition("@")
    if at and not DIGEST.fullmatch(digest):
        if _ANY_DIGEST.fullmatch(digest):
            raise BadReference(
                "only digests of the form sha256: and 64 lower-case hexadecimal digits are known"
            )
        raise BadReference("what stands behind @ is not a digest (sha256: and 64 hexadecimal digits)")
    name, tag = _split_tag(rest)
    registry, repository = _split_registry(name)
    if not _PATH_RE.fullmatch(repository):
        if _PATH_RE.fullmatch(repository.lower()):
            raise BadReference("the name of a repository is in lower case")
        raise BadReference(
            "the name of a repository is letters a-z and digits, with single . _ / or any - between them"
        )
    if len(registry) + 1 + len(repository) > _MAX_NAME:
        raise BadReference(f"registry and repository have more than {_MAX_NAME} characters")
    if not tag and not digest:
        tag = DEFAULT_TAG
    return Reference(registry, repository, tag, digest)


def _split_tag(text: str) -> tuple[str, str]:
    """A colon after the last slash begins a tag; one before it belongs to a port."""
    head, colon, tag = text.rpartition(":")
    if not colon or "/" in tag:
        return text, ""
    if not _TAG_RE.fullmatch(tag):
        raise BadReference("a tag has 1 to 128 letters, digits, _ . - and begins with none of the last two")
    return head, tag


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    # An upper-case letter can only be part of a host name: repositories have none.
    names_host = "." in first or ":" in first or first == "localhost" or first.lower() != first
    if not slash or not names_host:
        registry, repository = DEFAULT_REGISTRY, name
    else:
        registry, repository = check_host(first), rest
    if registry == "index.docker.io":  # what it was called long ago, and still is in many a config
        registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = _OFFICIAL + repository
    return registry, repository


def check_host(text: str) -> str:
    """A registry's host with its port, in lower case; one that only its capitals tell from the first part of
    a repository keeps them, or what is printed would be read as something else. Raises ``BadReference``."""
    if not _HOST_RE.fullmatch(text):
        raise BadReference(f"{text[:100]!r} is not the host of a registry")
    port = text.rpartition(":")[2] if ":" in text.rpartition("]")[2] else ""
    if port and not 1 <= int(port) <= 65_535:
        raise BadReference(f"{port} is not a port")
    lower = text.lower()
    return lower if "." in text or ":" in text or lower == "localhost" else text
