"""``nsbox cp``: files and folders, into a sandbox and out of it."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

import click

from nsbox.cli import output, remote, unpacking
from nsbox.client import ApiError, Sandbox
from nsbox.model.errors import HostProblem

_REMOTE = re.compile(r"([A-Za-z0-9_]+):(.*)", re.DOTALL)
#: Into $1, or below it under the name $2 where it is a folder: the archive $3, which is removed then.
_UNPACK = """
target=$1
[ ! -d "$target" ] || target=$1/$2
mkdir -p "$target" && tar -xf "$3" -C "$target"
status=$?
rm -f "$3"
exit $status
"""
#: What is in the folder $1, as the archive $2.
_PACK = 'tar -cf "$2" -C "$1" . || { status=$?; rm -f "$2"; exit $status; }'
_NO_TAR = 127


class _Place(NamedTuple):
    """``sandbox`` is None for what is here."""

    sandbox: str | None
    path: str


@click.command(short_help="Copy files and folders into a sandbox or out of it.")
@click.argument("source")
@click.argument("target")
@remote.options
def cp(source: str, target: str, context: str | None, as_json: bool) -> None:
    """Copy SOURCE to TARGET; one of the two is SANDBOX:/PATH.

    nsbox cp a.txt sb_…:/b.txt, nsbox cp sb_…:/etc ., nsbox cp folder sb_…:/srv. A file goes below TARGET
    where that is a folder; - is standard input or output. A local name with a colon is written as ./a:b.
    """
    here, there = _place(source), _place(target)
    if (here.sandbox is None) is (there.sandbox is None):
        raise click.UsageError("one of the two is SANDBOX:/PATH, and the other is here")
    with remote.connected(context, 60.0) as nsbox, _shown(as_json) as tell:
        if there.sandbox is not None:
            copied = _upload(nsbox.sandbox(there.sandbox), here.path, there.path, tell)
        else:
            assert here.sandbox is not None
            copied = _download(nsbox.sandbox(here.sandbox), here.path, there.path, tell)
    if as_json:
        import msgspec

        remote.echo_json(msgspec.json.encode({"from": source, "to": target, "bytes": copied}))


def _place(text: str) -> _Place:
    found = _REMOTE.fullmatch(text)
    if found is None:
        return _Place(None, text)
    if not found[2].startswith("/"):
        raise click.UsageError(f"{text}: a path in a sandbox begins with a slash")
    return _Place(found[1], found[2])


@contextlib.contextmanager
def _shown(as_json: bool) -> Iterator[Callable[[int, int | None], None]]:
    """How far it is, in place, where somebody looks."""
    shown = sys.stderr.isatty() and not as_json

    def tell(done: int, whole: int | None) -> None:
        if shown:
            of = f" of {output.size(whole)}" if whole is not None else ""
            click.echo(f"\r\x1b[K{output.size(done)}{of}", nl=False, err=True)

    try:
        yield tell
    finally:
        if shown:
            click.echo("\r\x1b[K", nl=False, err=True)


# ---- into a sandbox


def _upload(box: Sandbox, source: str, target: str, tell: Callable[[int, int | None], None]) -> int:
    """The number of bytes."""
    if source != "-" and os.path.isdir(source):
        return _upload_folder(box, source, target, tell)
    name = os.path.basename(source) if source != "-" else "stdin"
    with _local(source) as (file, mode):
        if target.endswith("/"):
            return box.files.write(target + name, file, mode=mode, progress=tell).size
        start = file.tell() if file.seekable() else None
        try:
            return box.files.write(target, file, mode=mode, progress=tell).size
        except ApiError as error:
            if error.code != "is_a_directory" or start is None:
                raise
            file.seek(start)
            return box.files.write(f"{target}/{name}", file, mode=mode, progress=tell).size


@contextlib.contextmanager
def _local(path: str) -> Iterator[tuple[IO[bytes], str | None]]:
    try:
        with open(path, "rb") if path != "-" else open(0, "rb", closefd=False) as file:
            mode = None if path == "-" else f"{os.fstat(file.fileno()).st_mode & 0o777:04o}"
            yield file, mode
    except OSError as error:
        raise HostProblem(f"{path} cannot be read: {error.strerror}") from error


def _upload_folder(box: Sandbox, source: str, target: str, tell: Callable[[int, int | None], None]) -> int:
    """By an archive on a disk here: so it can be sent again after a lost connection."""
    there = _temporary()
    with tempfile.TemporaryFile() as file:
        try:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                tar.add(source, ".", filter=_nobodys)
        except OSError as error:
            raise HostProblem(f"{source} cannot be packed: {error}") from error
        file.seek(0)
        size = box.files.write(there, file, mode="0600", progress=tell).size
    name = os.path.basename(os.path.abspath(source))
    _run(box, _UNPACK, target.rstrip("/") or "/", name, there)
    return size


def _nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Our ids mean nothing in there; and a sandbox has no use for sockets and pipes of ours."""
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode &= 0o777
    return member


# ---- out of it


def _download(box: Sandbox, source: str, target: str, tell: Callable[[int, int | None], None]) -> int:
    """The number of bytes."""
    name = os.path.basename(source.rstrip("/"))
    try:
        if target == "-":
            count = 0
            for piece in box.files.stream(source):
                sys.stdout.buffer.write(piece)
                count += len(piece)
            sys.stdout.buffer.flush()
            return count
        into = os.path.join(target, name) if os.path.isdir(target) and name else target
        return box.files.download(source, into, progress=tell)
    except OSError as error:
        raise HostProblem(f"{target} cannot be written: {error.strerror}") from error
    except ApiError as error:
        if error.code != "is_a_directory" or target == "-":
            raise
    return _download_folder(
        box, source, os.path.join(target, name) if os.path.isdir(target) else target, tell
    )


def _download_folder(box: Sandbox, source: str, target: str, tell: Callable[[int, int | None], None]) -> int:
    there = _temporary()
    _run(box, _PACK, source, there)
    try:
        with tempfile.TemporaryFile() as file:
            size = box.files.download(there, file, progress=tell)
            file.seek(0)
            skipped = unpacking.unpack(file, target)
    finally:
        box.files.remove(there)
    for name in skipped[:10]:
        click.echo(f"nsbox: left out: {remote.clean(name)}", err=True)
    if len(skipped) > 10:
        click.echo(f"nsbox: left out: {len(skipped) - 10} more", err=True)
    return size


def _temporary() -> str:
    return f"/tmp/.nsbox-cp-{secrets.token_hex(8)}.tar"  # noqa: S108 - in the sandbox; nobody guesses it


def _run(box: Sandbox, script: str, *arguments: str) -> None:
    done = box.exec(["/bin/sh", "-c", script, "sh", *arguments], timeout=3_600)
    if done.ok:
        return
    if done.exit_code == _NO_TAR:
        raise HostProblem(
            "the sandbox has no tar, and folders are copied by it",
            remedy="install it there, or copy the files one by one",
        )
    said = done.stderr.strip()[-500:] or done.outcome
    raise HostProblem(f"tar failed in the sandbox: {remote.clean(said)}")
