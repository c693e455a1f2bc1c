"""``/images`` and ``/templates``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nsbox.client.call import (
    EVENTS,
    OCTETS,
    Call,
    Request,
    body,
    image_part,
    query,
    reader,
    strings,
    variables,
)
from nsbox.client.types.image import BuiltTemplate, Image, Images, Pruned, Pushed, RemovedImage, Template

#: Between two events there is a heartbeat's time at most; an answer without events takes as it takes.
_SILENCE, _PULL, _PUSH, _BUILD = 30.0, 3_600.0, 7_200.0, 86_400.0
image = reader(Image)


def get_all(top: str) -> Call[Images]:
    """All images, and what they take."""
    return Call("GET", f"{top}/images", reader(Images), safe=True)


def get(top: str, name: str) -> Call[Image]:
    """One image."""
    return Call("GET", f"{top}/images/{image_part(name)}", image, safe=True)


def pull(top: str, name: str) -> Call[Image]:
    """Pull it from its registry, also when it is here: a tag may have moved."""
    return Call("POST", f"{top}/images", image, body=body(image=name), safe=True, patience=_PULL)


def pulling(top: str, name: str) -> Request:
    """The same, told as it goes on."""
    headers = (("Accept", EVENTS), ("Content-Type", "application/json"))
    return Request("POST", f"{top}/images", headers, body(image=name), _SILENCE)


def push(top: str, name: str, to: str | None = None) -> Call[Pushed]:
    """Push it to a registry: to ``to``, or to where its own name says. What runs already is joined."""
    wish = body(image=name, to=to)
    return Call("POST", f"{top}/images/push", reader(Pushed), body=wish, safe=True, patience=_PUSH)


def pushing(top: str, name: str, to: str | None) -> Request:
    """The same, told as it goes on."""
    return told_push(f"{top}/images/push", body(image=name, to=to))


def told_push(target: str, wish: bytes) -> Request:
    """A push of whatever, told as it goes on."""
    headers = (("Accept", EVENTS), ("Content-Type", "application/json"))
    return Request("POST", target, headers, wish, _SILENCE)


def import_(top: str, name: str | None) -> Request:
    """The request for an archive whose bytes are to be added."""
    asked = query(name=name)
    headers = (("Accept", "application/json"), ("Content-Type", OCTETS))
    return Request("POST", f"{top}/images/import{'?' if asked else ''}{asked}", headers, None, _PULL)


def export(top: str, name: str, form: str) -> Request:
    """The bytes of an archive."""
    return Request("GET", f"{top}/images/export?{query(image=name, format=form)}", (), None, _PULL)


def remove(top: str, name: str) -> Call[RemovedImage]:
    """Forget it. Sandboxes that live keep what they stand on."""
    path, gone = f"{top}/images/{image_part(name)}", RemovedImage(image=name)
    return Call("DELETE", path, reader(RemovedImage), safe=True, again=lambda: gone)


def prune(top: str, *, all: bool = False) -> Call[Pruned]:
    """Remove layers nobody needs; with ``all`` images on which no sandbox stands, too."""
    return Call("POST", f"{top}/images/prune", reader(Pruned), body=body(all=all), patience=_PULL)


def templates(top: str) -> Call[list[Template]]:
    """What a sandbox can be made from by a short name."""
    return Call("GET", f"{top}/templates", reader(list[Template]), safe=True)


def _template(
    name: str,
    image: str,
    description: str | None = None,
    env: Mapping[str, str] | None = None,
    workdir: str | None = None,
    user: str | None = None,
    shell: Iterable[str] | None = None,
    start: Iterable[str] | None = None,
    start_image: bool | None = None,
    setup: Iterable[str] | None = None,
    setup_timeout: int | None = None,
) -> bytes:
    return body(
        name=name,
        image=image,
        description=description,
        env=variables(env),
        workdir=workdir,
        user=user,
        shell=None if shell is None else strings(shell),
        start=None if start is None else strings(start),
        start_image=start_image,
        setup=None if setup is None else strings(setup),
        setup_timeout_s=setup_timeout,
    )


def build(
    top: str,
    name: str,
    image: str,
    *,
    description: str | None = None,
    env: Mapping[str, str] | None = None,
    workdir: str | None = None,
    user: str | None = None,
    shell: Iterable[str] | None = None,
    start: Iterable[str] | None = None,
    start_image: bool | None = None,
    setup: Iterable[str] | None = None,
    setup_timeout: int | None = None,
) -> Call[BuiltTemplate]:
    """Build a template: an image and what its set-up commands write."""
    wish = _template(
        name, image, description, env, workdir, user, shell, start, start_image, setup, setup_timeout
    )
    return Call("POST", f"{top}/templates", reader(BuiltTemplate), body=wish, patience=_BUILD)


def building(
    top: str,
    name: str,
    image: str,
    *,
    description: str | None = None,
    env: Mapping[str, str] | None = None,
    workdir: str | None = None,
    user: str | None = None,
    shell: Iterable[str] | None = None,
    start: Iterable[str] | None = None,
    start_image: bool | None = None,
    setup: Iterable[str] | None = None,
    setup_timeout: int | None = None,
) -> Request:
    """The same, told as it goes on."""
    wish = _template(
        name, image, description, env, workdir, user, shell, start, start_image, setup, setup_timeout
    )
    headers = (("Accept", EVENTS), ("Content-Type", "application/json"))
    return Request("POST", f"{top}/templates", headers, wish, _SILENCE)
