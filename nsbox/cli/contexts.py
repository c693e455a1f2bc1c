"""Which daemon the commands speak to: a file with names for URLs and keys, for nobody else to read.

    $XDG_CONFIG_HOME/nsbox/contexts.json   {"current": "home", "contexts": {"home": {"url": …, "key": …}}}

A URL and a key are always taken from one place: half of a pair from elsewhere would send one daemon's key to
another."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping

import msgspec

from nsbox.client.address import KEY_VARIABLE, URL_VARIABLE, address, checked_key
from nsbox.model.errors import HostProblem

NAME_VARIABLE = "NSBOX_CONTEXT"
_LONGEST = 1 << 20
_HOW = "make one with: nsbox context add NAME URL"


class Context(msgspec.Struct, frozen=True):
    """A daemon and a key for it."""

    url: str
    key: str

    def __repr__(self) -> str:
        return f"Context(url={self.url!r}, key=…)"


class Contexts(msgspec.Struct, frozen=True):
    """All of them."""

    current: str | None = None
    contexts: dict[str, Context] = msgspec.field(default_factory=dict)

    def named(self, name: str) -> Context:
        """Raises ``HostProblem``."""
        found = self.contexts.get(name)
        if found is None:
            known = ", ".join(sorted(self.contexts)) or "none"
            raise HostProblem(f"there is no context {name!r} (there is: {known})", remedy=_HOW)
        return found


def file_of(environment: Mapping[str, str]) -> str:
    """Where they are kept."""
    home = environment.get("HOME") or os.path.expanduser("~")
    base = environment.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    return os.path.join(base, "nsbox", "contexts.json")


def load(path: str) -> Contexts:
    """Raises ``HostProblem``, also for a file that others can read: its keys are theirs by now."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, PermissionError):
        # sudo may leave HOME as it was: what is in somebody else's home is none of ours.
        return Contexts()
    except OSError as error:
        raise HostProblem(f"{path} cannot be read: {error.strerror}") from error
    try:
        _check_private(path, os.fstat(descriptor))
        data = os.read(descriptor, _LONGEST)
    finally:
        os.close(descriptor)
    try:
        return msgspec.json.decode(data, type=Contexts)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # msgspec's sentence would not show a key; nor is it needed.
        raise HostProblem(f"{path} is damaged", remedy="remove it, and add the contexts again") from None


def _check_private(path: str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise HostProblem(f"{path} is no file")
    if found.st_uid != os.geteuid():
        raise HostProblem(f"{path} belongs to somebody else", remedy=f"chown {os.geteuid()} {path}")
    if found.st_mode & 0o077:
        raise HostProblem(
            f"{path} has keys in it, and others may read it (mode {found.st_mode & 0o777:04o})",
            remedy=f"chmod 600 {path}; and make new keys, if others could get at it",
        )


def save(path: str, contexts: Contexts) -> None:
    """Whole or not at all, and never readable for others, not even for a moment."""
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        # mkstemp makes it 0600, whatever the umask is.
        descriptor, name = tempfile.mkstemp(prefix=".contexts-", dir=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(contexts), indent=2) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise HostProblem(f"{path} cannot be written: {error.strerror}") from error


def chosen(environment: Mapping[str, str], name: str | None = None) -> Context:
    """The one that is named; else what the environment has; else the current one. Raises ``HostProblem``."""
    found = named(environment, name)
    if found is None:
        raise HostProblem(
            "no daemon is named",
            remedy=f"set {URL_VARIABLE} and {KEY_VARIABLE} (make a key with `nsbox keys create NAME`), "
            "or keep them: nsbox context add NAME URL",
        )
    return found


def named(environment: Mapping[str, str], name: str | None = None) -> Context | None:
    """The same, and None where there is none."""
    url, key = environment.get(URL_VARIABLE), environment.get(KEY_VARIABLE)
    if name is None and url and key:
        return checked(Context(url, key))
    if name is None and (url or key):
        there, missing = (URL_VARIABLE, KEY_VARIABLE) if url else (KEY_VARIABLE, URL_VARIABLE)
        raise HostProblem(f"{there} is set and {missing} is not", remedy=f"set both, or unset {there}")
    contexts = load(file_of(environment))
    name = name or environment.get(NAME_VARIABLE) or contexts.current
    return None if name is None else checked(contexts.named(name))


def checked(context: Context) -> Context:
    """Raises ``HostProblem``."""
    try:
        address(context.url)
        checked_key(context.key)
    except ValueError as error:
        raise HostProblem(str(error)) from error
    return context
