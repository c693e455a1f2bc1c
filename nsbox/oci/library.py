"""The images that are here, as files: one record for each reference, written when all of it is here.

``library/HASH.json`` is an image, ``library/NAME.layer`` what is known of a layer. A record is written after
the layers it names and removed before them, so that at any moment what a record says is there is there.
Synchronous, for the start of the daemon and for a worker thread.
"""

from __future__ import annotations

import hashlib
import logging
import os

import msgspec

from nsbox.model.image import Image

_log = logging.getLogger(__name__)
FOLDER = "library"
_IMAGE, _LAYER, _NEW = ".json", ".layer", ".new"


class LayerInfo(msgspec.Struct, frozen=True):
    """What unpacking a layer told."""

    diff_id: str
    bytes: int = 0
    entries: int = 0


class Library:
    """The folder. Reading it is cheap and happens once; what is in it is kept in memory by its user."""

    def __init__(self, state_dir: str) -> None:
        self._path = os.path.join(state_dir, FOLDER)
        self._layers = os.path.join(state_dir, "layers")
        os.makedirs(self._path, 0o700, exist_ok=True)

    def load(self) -> dict[str, Image]:
        """All images whose layers are all there. A record that cannot be read is left alone and told."""
        found: dict[str, Image] = {}
        for name in os.listdir(self._path):
            path = os.path.join(self._path, name)
            if name.endswith(_NEW):
                os.unlink(path)  # somebody was killed while writing it
            elif name.endswith(_IMAGE):
                image = self._read(path)
                if image is not None:
                    found[image.reference] = image
        return found

    def _read(self, path: str) -> Image | None:
        try:
            with open(path, "rb") as file:
                image = msgspec.json.decode(file.read(), type=Image)
        except (OSError, msgspec.DecodeError) as error:
            _log.warning("%s is no record of an image: %s", path, error)
            return None
        missing = [name for name in image.layer_names if not self.has_layer(name)]
        if missing:
            _log.warning(
                "%s lacks %d of its layers and has to be pulled again", image.reference, len(missing)
            )
            return None
        return image

    def save(self, image: Image) -> None:
        """Durably: when this returns, a power cut does not take it back."""
        self._write(_file_of(image.reference), msgspec.json.encode(image))

    def forget(self, reference: str) -> None:
        """Idempotent."""
        self._unlink(_file_of(reference))

    def has_layer(self, name: str) -> bool:
        """A layer that has its name is complete."""
        return os.path.isdir(os.path.join(self._layers, name))

    def layer_path(self, name: str) -> str:
        return os.path.join(self._layers, name)

    def layers(self) -> dict[str, float]:
        """Every layer's name, whoever made it, and since when it is there."""
        found = {}
        with os.scandir(self._layers) as entries:
            for entry in entries:
                found[entry.name] = entry.stat(follow_symlinks=False).st_ctime
        return found

    def note_layer(self, name: str, info: LayerInfo) -> None:
        self._write(name + _LAYER, msgspec.json.encode(info))

    def layer_info(self, name: str) -> LayerInfo | None:
        """None for one whose unpacking nobody lived to note."""
        try:
            with open(os.path.join(self._path, name + _LAYER), "rb") as file:
                return msgspec.json.decode(file.read(), type=LayerInfo)
        except (OSError, msgspec.DecodeError):
            return None

    def forget_layer(self, name: str) -> None:
        self._unlink(name + _LAYER)

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(os.path.join(self._path, name))
        except FileNotFoundError:
            return
        self._sync()

    def _write(self, name: str, data: bytes) -> None:
        path = os.path.join(self._path, name)
        with open(path + _NEW, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(path + _NEW, path)
        self._sync()

    def _sync(self) -> None:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _file_of(reference: str) -> str:
    """References have slashes, and may be longer than a file's name."""
    return hashlib.sha256(reference.encode()).hexdigest()[:40] + _IMAGE
