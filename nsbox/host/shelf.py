"""The folder of a sandbox's logs: ``logs/ID/``, in the state folder."""

from __future__ import annotations

import os
import shutil

from nsbox.host.logs import Log, remove

#: Beside a log, once its command has ended: how.
_END = ".end"


class Shelf:
    """Logs of one sandbox, by the keys of their commands. The folder is made with the first log."""

    def __init__(self, state_dir: str, sandbox_id: str) -> None:
        self._folder = os.path.join(state_dir, "logs", sandbox_id)
        #: Bytes of logs that were removed, and that somebody still reads: they take room until then.
        self.unread = 0

    def _path(self, key: str) -> str:
        return f"{self._folder}/{key}"

    def create(self, key: str, note: bytes, head: int | None) -> Log:
        """A new log. Raises ``OSError``."""
        try:
            return Log.create(self._path(key), note, head)
        except FileNotFoundError:
            os.makedirs(self._folder, 0o700, exist_ok=True)
            return Log.create(self._path(key), note, head)

    def open(self, key: str) -> Log:
        """One of an earlier api process. Raises ``OSError``, ``logs.Damaged``."""
        return Log.open(self._path(key))

    def keys(self) -> list[str]:
        """Of the logs that are here."""
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        return sorted({name.rpartition(".")[0] for name in names})

    def say_end(self, key: str, end: bytes) -> None:
        """Write down how a command ended. Raises ``OSError``."""
        descriptor = os.open(
            self._path(key) + _END, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
        )
        try:
            os.write(descriptor, end)
        finally:
            os.close(descriptor)

    def end(self, key: str) -> bytes | None:
        """How it ended, if that is known. What was not written whole is empty."""
        try:
            with open(self._path(key) + _END, "rb") as file:
                return file.read() or None
        except FileNotFoundError:
            return None

    def remove(self, key: str) -> None:
        """Remove a log. Idempotent."""
        remove(self._path(key))

    def clear(self) -> None:
        """Remove them all. Idempotent. Renamed first: whoever is just writing an end down finds no folder,
        and cannot put anything into one that is being emptied."""
        gone = self._folder + ".gone"
        try:
            os.rename(self._folder, gone)
        except FileNotFoundError:
            return
        shutil.rmtree(gone, ignore_errors=True)


def unused(state_dir: str, sandboxes: set[str]) -> list[str]:
    """The folders of logs of sandboxes that are no more."""
    folder = os.path.join(state_dir, "logs")
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [os.path.join(folder, name) for name in names if name not in sandboxes]


def clear(folders: list[str]) -> None:
    """Remove folders. Idempotent."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
