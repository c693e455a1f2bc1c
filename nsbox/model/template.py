"""What a sandbox is made from. Pure data."""

from __future__ import annotations

import msgspec


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """What a sandbox is made from: layers, topmost first, and what an image's config says.

    ``shell`` is empty where there is none. ``start`` is run in every sandbox made from it. ``image`` is the
    canonical name of the image it comes from, if it comes from one; ``description`` is for people.
    """

    name: str
    layers: tuple[str, ...]
    env: dict[str, str] = {}
    workdir: str = "/"
    user: str = ""
    shell: tuple[str, ...] = ("/bin/sh", "-c")
    start: tuple[str, ...] = ()
    image: str = ""
    description: str = ""
