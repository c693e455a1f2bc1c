"""Which images may be had here, and where each is asked for: the settings, applied to a reference."""

from __future__ import annotations

import fnmatch

from nsbox.model.errors import Code, Problem
from nsbox.oci import credentials
from nsbox.oci.dialer import is_loopback
from nsbox.oci.manifests import Platform, host_platform
from nsbox.oci.reference import BadReference, Reference, parse
from nsbox.oci.session import Endpoint
from nsbox.settings import Registry, Settings

_HUB = "docker.io"


def read(text: str, field: str = "image") -> Reference:
    """A client's word for an image. Raises ``Problem``."""
    try:
        return parse(text)
    except BadReference as error:
        raise Problem(Code.INVALID_FIELD, f"{text[:200]!r} is no image: {error}", field=field) from error


def check_allowed(reference: Reference, settings: Settings, field: str = "image") -> None:
    """Raises ``Problem`` for an image that is on no line of ``images_allowed``."""
    name = str(reference)
    if not any(fnmatch.fnmatchcase(name, _widened(pattern)) for pattern in settings.images_allowed):
        raise Problem(
            Code.IMAGE_NOT_ALLOWED,
            f"{reference.familiar} is not among the images that this host allows",
            field=field,
            remedy="ask the operator (the setting images_allowed)",
        )


def _widened(pattern: str) -> str:
    """``docker.io/library/*`` as it is; ``alpine`` and ``python:3.*`` as what they are short for; a
    registry's name alone is all that is in it."""
    first, slash, _ = pattern.partition("/")
    if pattern == "*" or (slash and "*" in first):
        return pattern
    names_host = "." in first or ":" in first or first == "localhost"
    if slash and names_host:
        return pattern if ":" in pattern.rpartition("/")[2] or pattern.endswith("*") else f"{pattern}[:@]*"
    if not slash and "." in first and ":" not in first:
        return f"{pattern}/*"
    whole = f"{_HUB}/{pattern}" if slash else f"{_HUB}/library/{pattern}"
    return whole if ":" in pattern or pattern.endswith("*") else f"{whole}[:@]*"


def wanted_platform(settings: Settings) -> Platform:
    """This host's, unless the settings say otherwise (``linux/arm64``)."""
    if not settings.image_platform:
        return host_platform()
    return Platform(*settings.image_platform.split("/", 2))


def endpoints(reference: Reference, settings: Settings) -> list[tuple[Endpoint, str]]:
    """Where to ask, mirrors first, each with the repository's name there."""
    found = []
    own = settings.registries.get(reference.registry, Registry())
    for mirror in own.mirrors:
        host, _, prefix = mirror.partition("/")
        repository = f"{prefix.strip('/')}/{reference.repository}" if prefix else reference.repository
        found.append((_endpoint(host, host, repository, settings), repository))
    found.append(
        (
            _endpoint(reference.registry, reference.host, reference.repository, settings),
            reference.repository,
        )
    )
    return found


def _endpoint(registry: str, host: str, repository: str, settings: Settings) -> Endpoint:
    own = settings.registries.get(registry, Registry())
    plain = own.insecure if own.insecure is not None else is_loopback(host) and not own.ca_file
    # One registry's credentials are never another's: a mirror has its own, or none.
    login = credentials.from_setting(own.username, own.password_file) or credentials.from_files(
        settings.registry_auth_files, registry, repository
    )
    return Endpoint(
        host=host,
        plain=plain,
        private=own.private,
        ca_file=own.ca_file,
        plain_hosts=frozenset(name for name, one in settings.registries.items() if one.insecure),
        credentials=login,
    )
