"""Records of images: what a registry or an archive gave, as far as sandboxes need it. Pure data."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from nsbox.model.template import Template

#: Overlayfs takes 500; Docker builds at most 127, and so many fit into one page of mount options.
MAX_LAYERS = 127


class PullPolicy(StrEnum):
    """Whether an image may be, or must be, asked of its registry when a sandbox is made from it."""

    NEVER = "never"
    MISSING = "missing"
    ALWAYS = "always"


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What an image says of the commands that run in it. ``user`` is as written there: ``""``, ``name``,
    ``uid``, either with ``:group``; it is looked up in the sandbox's own /etc/passwd."""

    env: dict[str, str] = {}
    workdir: str = "/"
    user: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    created: str = ""
    os: str = ""
    architecture: str = ""
    variant: str = ""


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One layer. ``digest`` and ``size`` are of the blob as it travels, ``diff_id`` of the plain archive;
    ``name`` is its folder in ``layers/``; ``unpacked`` are the bytes of its files; ``packing`` is how the
    blob is packed (records of older versions do not say)."""

    digest: str
    size: int
    diff_id: str
    name: str
    unpacked: int = 0
    packing: str = ""


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image that is here, all of it. ``reference`` is canonical (``docker.io/library/alpine:latest``).

    ``layers`` are bottom first, as images list them. ``shell``: whether /bin/sh is in it. ``digest`` is of
    the manifest for this platform; ``index`` of the list it was chosen from, if there was one. ``built``:
    what became of a template's set-up commands; no registry gave that.
    """

    reference: str
    digest: str
    index: str = ""
    config: ImageConfig
    layers: tuple[Layer, ...]
    shell: bool = True
    pulled_at: float = 0.0
    source: str = ""
    built: Template | None = None

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Folders for an overlay: topmost first, and each once.

        Overlayfs refuses a folder that is given twice. Of two equal layers the lower one can go: what it
        adds, replaces and hides is added, replaced and hidden again by the upper one, whatever is between.
        """
        return tuple(dict.fromkeys(layer.name for layer in reversed(self.layers)))


class Stage(StrEnum):
    """What is being done for a layer, or for the image as a whole."""

    RESOLVING = "resolving"
    WAITING = "waiting"
    DOWNLOADING = "downloading"
    UNPACKING = "unpacking"
    PACKING = "packing"  # for a push: what is only here unpacked
    UPLOADING = "uploading"
    MOUNTED = "mounted"  # the registry had it in another repository
    PRESENT = "present"  # it was here, or for a push there, before
    DONE = "done"


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """News of a pull or a push. ``layer`` is a blob's digest; empty: the image as a whole."""

    stage: Stage
    layer: str = ""
    current: int = 0
    total: int = 0


class PushedLayer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer that the registry has now. ``how``: ``DONE`` (sent), ``MOUNTED`` or ``PRESENT``."""

    digest: str
    size: int
    how: Stage


class Pushed(msgspec.Struct, frozen=True, kw_only=True):
    """An image that a registry has now, under ``reference``. ``layers`` are bottom first."""

    reference: str
    digest: str
    layers: tuple[PushedLayer, ...]


class DiskUse(msgspec.Struct, frozen=True, kw_only=True):
    """What images take on disk, in bytes. ``shared``: layers counted once though several images have them;
    ``reclaimable``: layers that neither an image, a template nor a sandbox needs; ``downloads``: blobs."""

    images: int
    layers: int
    bytes: int
    reclaimable: int
    downloads: int


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """What pruning removed."""

    images: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    bytes: int = 0
