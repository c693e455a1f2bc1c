"""What init and the file agent refuse, in the words of the API: one place for stage and errno to code."""

import errno

from nsbox.host.box import Refusal
from nsbox.model.errors import Code, Problem

_FILES: dict[int, tuple[Code, str]] = {
    errno.ENOENT: (Code.FILE_NOT_FOUND, "there is no such file or directory"),
    errno.EEXIST: (Code.NOT_A_DIRECTORY, "a part of the path is not a directory"),
    errno.ENOTDIR: (Code.NOT_A_DIRECTORY, "a part of the path is not a directory"),
    errno.EISDIR: (Code.IS_A_DIRECTORY, "this is a directory"),
    errno.ENOTEMPTY: (Code.DIRECTORY_NOT_EMPTY, "the directory is not empty"),
    errno.EACCES: (Code.PERMISSION_DENIED, "the sandbox's root may not do that"),
    errno.EPERM: (Code.PERMISSION_DENIED, "the sandbox's root may not do that"),
    errno.EROFS: (Code.READ_ONLY, "this part of the file system is read-only"),
    errno.EBUSY: (Code.READ_ONLY, "this is in use as a mount point or cannot be removed"),
    errno.ENOSPC: (Code.NO_SPACE, "the sandbox has no space left"),
    errno.EDQUOT: (Code.NO_SPACE, "the sandbox has used all of its storage"),
    errno.EFBIG: (Code.FILE_TOO_LARGE, "the file would be too large"),
    errno.ELOOP: (Code.TOO_MANY_LINKS, "too many symbolic links, or one that leads into /proc"),
    errno.ENXIO: (Code.NOT_A_REGULAR_FILE, "this is not a regular file"),
    errno.ENODEV: (Code.NOT_A_REGULAR_FILE, "this is not a regular file"),
}
#: Said of processes, memory and descriptors, not of the file.
_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ETOOMANYREFS})
_REMEDIES: dict[Code, str] = {
    Code.IS_A_DIRECTORY: "add list=true to list it",
    Code.DIRECTORY_NOT_EMPTY: "add recursive=true to remove all of it",
    Code.FILE_NOT_FOUND: "list the directory with list=true",
}


def of_file(refusal: Refusal, path: str) -> Problem:
    """Why a file request was refused."""
    if refusal.errno in (errno.ENAMETOOLONG, errno.EINVAL) and refusal.stage == "path":
        return Problem(Code.INVALID_FIELD, "the path is too long or not a path", field="path")
    if refusal.stage == "fork":
        return exhausted(refusal)
    if refusal.errno in _RESOURCES:
        return exhausted(refusal)
    if refusal.errno in _FILES:
        code, sentence = _FILES[refusal.errno]
        return Problem(code, f"{path}: {sentence}", field="path", remedy=_REMEDIES.get(code))
    if refusal.stage == "type":
        return Problem(Code.NOT_A_REGULAR_FILE, f"{path}: {refusal.detail}", field="path")
    # Not a 5xx: a sandbox may make up what it says.
    return Problem(Code.FILE_OPERATION_FAILED, f"{path}: {refusal.detail}", field="path", remedy="try again")


def of_command(refusal: Refusal) -> Problem:
    """Why a command was not started."""
    if refusal.stage == "user":
        return Problem(Code.INVALID_FIELD, refusal.detail, field="user")
    if refusal.stage == "cwd":
        return Problem(Code.INVALID_FIELD, refusal.detail, field="cwd", remedy="create the directory first")
    return exhausted(refusal)


def never(refusal: Refusal) -> Problem:
    """Of what an init of ours never refuses. A sandbox may make up what it says, and nobody is told that he
    could do something about it."""
    return Problem(
        Code.SANDBOX_UNRESPONSIVE,
        f"the sandbox does not do what it is asked: {refusal.detail}",
        remedy="delete it and create a new one",
    )


def exhausted(refusal: Refusal) -> Problem:
    """No process could be started in the sandbox."""
    return Problem(
        Code.SANDBOX_EXHAUSTED,
        f"the sandbox cannot start another process: {refusal.detail}",
        remedy="end some of its processes with DELETE /processes",
    )
