"""Having the default template ready: built once from the host's files, and again when those change."""

import logging
import os

import msgspec
import trio

from nsbox.host import facts
from nsbox.host.keeper import KeeperLink
from nsbox.model.errors import HostProblem
from nsbox.model.sandbox import Template, new_command_id
from nsbox.oci import embedded
from nsbox.service.templates import DEFAULT

_log = logging.getLogger(__name__)
_FOLDER = "templates"


async def default_template(state_dir: str, keeper: KeeperLink) -> Template:
    """The default template, with its layer on disk. Raises ``HostProblem``.

    Its name has a fingerprint of the host's files in it, so an upgrade of the host makes a new one and
    sandboxes that run keep theirs.
    """
    layer = f"default-{embedded.fingerprint()[:20]}"
    path = os.path.join(state_dir, _FOLDER, f"{layer}.json")
    known = _read(path)
    if known is not None and os.path.isdir(os.path.join(state_dir, "layers", layer)):  # noqa: ASYNC240
        return known
    _log.warning("building the default template from this host's files; this happens once")
    manifest = await trio.to_thread.run_sync(embedded.plan)
    _check_room(state_dir, manifest.size)
    await _build(keeper, layer, msgspec.json.encode(manifest))
    template = Template(
        name=DEFAULT,
        layers=(layer,),
        env=dict(manifest.config.env),
        workdir=manifest.config.workdir,
        user="",
        shell=tuple(manifest.config.shell),
    )
    _write(path, msgspec.json.encode(template))
    return template


def _check_room(state_dir: str, size: int) -> None:
    """Before the copy begins: half a template is of no use, and a full disk harms the host's other users."""
    free = facts.state_disk(state_dir).free_bytes
    if free < size:
        raise HostProblem(
            f"there is no space for the default template, which takes {size >> 20} MiB: "
            f"{free >> 20} MiB are free on the disk of {state_dir}",
            remedy="free some, or give a --state-dir on another disk",
        )


async def remove_unused(state_dir: str, keeper: KeeperLink, used: set[str]) -> None:
    """Remove the layers of default templates of earlier host files that no living sandbox stands on."""
    for name in os.listdir(os.path.join(state_dir, "layers")):
        if not name.startswith(f"{DEFAULT}-") or name in used:
            continue
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            await keeper.task(new_command_id(), "remove-layer", name, (null, null, 2))
        finally:
            os.close(null)
        _forget(os.path.join(state_dir, _FOLDER, f"{name}.json"))


def _forget(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _read(path: str) -> Template | None:
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=Template)
    except (OSError, msgspec.DecodeError):
        return None


def _write(path: str, data: bytes) -> None:
    """By a temporary name, so that what is there is always whole."""
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    temporary = f"{path}.new"
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)


async def _build(keeper: KeeperLink, layer: str, manifest: bytes) -> None:
    """Make the layer's tree, in keeper's namespace: only there can files be owned by a sandbox's root."""
    order = _in_memory("manifest", manifest)
    report = _in_memory("report", b"")
    try:
        status = await keeper.task(new_command_id(), "embed", layer, (order, report, 2))
        answer = os.pread(report, 1 << 20, 0).decode("utf-8", "replace").strip()
    finally:
        os.close(order)
        os.close(report)
    if status:
        raise HostProblem(
            f"the default template could not be built (status {status}): {answer}", remedy="nsbox doctor"
        )
    _log.info("the default template is ready: %s", answer[:200])


def _in_memory(name: str, data: bytes) -> int:
    descriptor = os.memfd_create(f"nsbox-{name}", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
