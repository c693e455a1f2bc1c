"""Mounts in terms of descriptors and small verbs. Mechanism only: plan/ decides what goes where."""

import errno
import os
from collections.abc import Iterable, Sequence

from nsbox.kernel import libc


def make_private() -> None:
    """Cut this mount namespace off: nothing mounted here shows outside, nor the reverse."""
    libc.mount(None, b"/", None, libc.MS_REC | libc.MS_PRIVATE)


def new_filesystem(
    kind: str, options: Iterable[tuple[str, str | None]] = (), attributes: int = 0, source: str | None = None
) -> int:
    """A new file system instance as a detached mount. An option with the value None is a flag."""
    context = libc.fsopen(kind.encode())
    try:
        if source is not None:
            libc.fsconfig(context, libc.FSCONFIG_SET_STRING, b"source", source.encode())
        for name, value in options:
            if value is None:
                libc.fsconfig(context, libc.FSCONFIG_SET_FLAG, name.encode())
            else:
                libc.fsconfig(context, libc.FSCONFIG_SET_STRING, name.encode(), os.fsencode(value))
        libc.fsconfig(context, libc.FSCONFIG_CMD_CREATE)
        return libc.fsmount(context, attributes)
    finally:
        os.close(context)


def mount_new(
    kind: str, target: str, options: Iterable[tuple[str, str | None]] = (), attributes: int = 0
) -> None:
    """Mount a new file system instance on ``target``, a path no sandbox can change."""
    mount = new_filesystem(kind, options, attributes)
    try:
        attach(mount, target)
    finally:
        os.close(mount)


def attach(mount: int, target: str) -> None:
    """Attach a detached mount to the path ``target``."""
    libc.move_mount(mount, b"", libc.AT_FDCWD, os.fsencode(target), libc.MOVE_MOUNT_F_EMPTY_PATH)


def move_onto(source: str, directory: int) -> None:
    """Move the mount at ``source``, with all below it, onto the directory behind a descriptor."""
    libc.move_mount(libc.AT_FDCWD, os.fsencode(source), directory, b"", libc.MOVE_MOUNT_T_EMPTY_PATH)


def bind(source: str, target: str) -> None:
    """Bind ``source`` on ``target``."""
    libc.mount(os.fsencode(source), os.fsencode(target), None, libc.MS_BIND)


def set_attributes(target: str, attributes: int) -> None:
    """Add attributes (MOUNT_ATTR_*) to the mount at ``target``."""
    libc.mount_setattr(libc.AT_FDCWD, os.fsencode(target), attributes)


def make_readonly(path: str) -> None:
    """Turn ``path``, a file or directory within a mount, into a read-only mount of itself."""
    bind(path, path)
    set_attributes(path, libc.MOUNT_ATTR_RDONLY | libc.MOUNT_ATTR_NOSUID | libc.MOUNT_ATTR_NODEV)


def mount_empty(path: str) -> None:
    """A directory that is empty and stays so, to be bound over others."""
    attributes = libc.MOUNT_ATTR_RDONLY | libc.MOUNT_ATTR_NOSUID | libc.MOUNT_ATTR_NODEV
    mount_new("tmpfs", path, [("size", "0"), ("nr_inodes", "1")], attributes)


def mask(path: str, null: str, empty: str) -> None:
    """Hide ``path``: a directory under ``empty``, a file under the device ``null``."""
    bind(empty if os.path.isdir(path) else null, path)


#: What fsconfig(2) takes for one value, and mount(2) for all options together (a page), NULs included.
_LONGEST_VALUE = 256
_LONGEST_OPTIONS = 4096


def overlay(lower: Sequence[str], upper: str, work: str) -> int:
    """A writable overlay as a detached mount; paths are taken from the current directory, topmost first.

    ``userxattr``: trusted.* attributes need real root. ``volatile``: skip the syncs that would only matter
    after a power cut, which no sandbox survives. ``nodev``: device nodes of an image mean nothing here.

    A few layers' names go in one value everywhere. More go one by one since Linux 6.8, and before that into
    mount(2), which has a page: enough for 127 layers with short names.
    """
    joined = ":".join(lower)
    if len(joined) < _LONGEST_VALUE:
        layers = [("lowerdir", joined)]
    elif _takes_layers_one_by_one():
        layers = [("lowerdir+", one) for one in lower]
    else:
        return overlay_by_page(lower, upper, work)
    options = [
        *layers,
        ("upperdir", upper),
        ("workdir", work),
        ("userxattr", None),
        ("volatile", None),
    ]
    return new_filesystem("overlay", options, libc.MOUNT_ATTR_NODEV, source="overlay")


def _takes_layers_one_by_one() -> bool:
    """``lowerdir+`` came with Linux 6.7 and works since 6.8 (Documentation/filesystems/overlayfs.rst)."""
    major, minor = (int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    return (major, minor) >= (6, 8)


def overlay_by_page(lower: Sequence[str], upper: str, work: str) -> int:
    """The same by mount(2), whose mount is attached somewhere: on ``upper``, in this mount namespace, until a
    detached copy of it is made. Raises ``OSError`` (E2BIG) where the names are too long together."""
    options = f"lowerdir={':'.join(lower)},upperdir={upper},workdir={work},userxattr,volatile".encode()
    if len(options) >= _LONGEST_OPTIONS:
        raise OSError(errno.E2BIG, "the names of the layers do not fit into one page of mount options")
    target = os.fsencode(upper)
    libc.mount(b"overlay", target, b"overlay", libc.MS_NODEV, options)
    try:
        return libc.open_tree(libc.AT_FDCWD, target)
    finally:
        libc.umount(target)


def stack(lower: Sequence[str], attributes: int) -> int:
    """Two layers or more as one tree, only to be read, as a detached mount; as ``overlay`` otherwise."""
    joined = ":".join(lower)
    if len(joined) < _LONGEST_VALUE:
        layers = [("lowerdir", joined)]
    elif _takes_layers_one_by_one():
        layers = [("lowerdir+", one) for one in lower]
    else:
        return stack_by_page(lower, attributes)
    return new_filesystem("overlay", [*layers, ("userxattr", None)], attributes, source="overlay")


def stack_by_page(lower: Sequence[str], attributes: int) -> int:
    """Attached to the topmost for a moment, in a mount namespace of our own: nobody else is to see that."""
    options = f"lowerdir={':'.join(lower)},userxattr".encode()
    if len(options) >= _LONGEST_OPTIONS:
        raise OSError(errno.E2BIG, "the names of the layers do not fit into one page of mount options")
    libc.unshare(libc.CLONE_NEWNS)
    make_private()
    target = os.fsencode(lower[0])
    libc.mount(b"overlay", target, b"overlay", libc.MS_RDONLY, options)
    tree = libc.open_tree(libc.AT_FDCWD, target)
    libc.mount_setattr(tree, b"", attributes, flags=libc.AT_EMPTY_PATH)
    libc.umount(target)
    return tree


def pivot_into(root: int) -> None:
    """Make the directory ``root`` the root of this mount namespace and let go of the old one."""
    os.fchdir(root)
    libc.pivot_root(b".", b".")
    libc.umount(b".")
    os.chdir("/")


def pivot_onto(path: str) -> None:
    """``pivot_into`` what is mounted on ``path``."""
    directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    pivot_into(directory)
    os.close(directory)


def open_mount_point(root: int, name: str) -> int:
    """The directory ``name`` below ``root``, made if missing, as a descriptor to mount on.

    An image that made it a symlink is refused: mounting through one is how CVE-2021-30465 and its kin
    left the root. Raises ``OSError`` (ELOOP, ENOTDIR).
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
    resolve = libc.RESOLVE_NO_SYMLINKS | libc.RESOLVE_BENEATH
    try:
        return libc.openat2(root, name.encode(), flags, resolve=resolve)
    except FileNotFoundError:
        os.mkdir(name, 0o755, dir_fd=root)
        return libc.openat2(root, name.encode(), flags, resolve=resolve)
