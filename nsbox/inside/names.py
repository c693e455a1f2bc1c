"""/etc/hosts, /etc/hostname and /etc/resolv.conf of a sandbox, written by its preparing child after the
pivot.

Files and not mounts: who is root inside may replace them, as on any host. Images often have symlinks there
(Debian's resolv.conf leads to systemd's); those are replaced, never written through. Nothing outside is in
reach by now, so that whatever an image made of /etc can hurt only itself.
"""

import os

from nsbox.wire.messages import Launch

_LOCAL = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
#: Larger answers by UDP, so that few need TCP.
_OPTIONS = "options edns0\n"


def write(launch: Launch, folder: str = "/etc") -> None:
    """An image that has no folder /etc keeps none."""
    try:
        etc = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        own = launch.addresses or ("127.0.1.1",)
        lines = "".join(f"{address}\t{launch.hostname}\n" for address in own)
        _replace(etc, "hosts", _LOCAL + lines)
        _replace(etc, "hostname", launch.hostname + "\n")
        if launch.nameserver:
            _replace(etc, "resolv.conf", f"nameserver {launch.nameserver}\n{_OPTIONS}")
    finally:
        os.close(etc)


def _replace(etc: int, name: str, content: str) -> None:
    """A directory of that name stays."""
    try:
        os.unlink(name, dir_fd=etc)
    except FileNotFoundError:
        pass
    except OSError:
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o644, dir_fd=etc)
    try:
        os.write(descriptor, content.encode())
    finally:
        os.close(descriptor)
