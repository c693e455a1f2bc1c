"""One blob from a registry to the disk: resumed, verified on the way, durable at the end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from functools import partial

import trio

from nsbox.oci.blobs import Blobs, Incoming, Mismatch
from nsbox.oci.registry import Registry
from nsbox.oci.registry_errors import Passing, Unfit, persistently

#: Hashing and writing go to a thread in portions of so much: a hop costs 0.1 ms, and the API is served
#: by the thread that we are on.
_PORTION = 1 << 20


async def fetch(
    registry: Registry, blobs: Blobs, digest: str, size: int, told: Callable[[int], None]
) -> None:
    """When this returns, the blob is in ``blobs``: whole, right, durable. ``told`` hears how far it is.

    Raises ``RegistryError``, ``OSError``. What came before ``Passing`` stays for the next time; what was
    wrong does not.
    """
    incoming = await trio.to_thread.run_sync(blobs.begin, digest, size)
    try:
        resumed = incoming.have > 0
        try:
            await _complete(registry, incoming, digest, told)
        except Mismatch as error:
            if not resumed:
                raise Unfit(f"{registry.endpoint.host}: {error}") from error
            # What an earlier try had left may have been the wrong part, as after a power cut.
            await _again(registry, blobs, digest, size, told)
    finally:
        incoming.close()


async def _again(
    registry: Registry, blobs: Blobs, digest: str, size: int, told: Callable[[int], None]
) -> None:
    incoming = await trio.to_thread.run_sync(blobs.begin, digest, size)
    try:
        incoming.restart()
        await _complete(registry, incoming, digest, told)
    except Mismatch as error:
        raise Unfit(f"{registry.endpoint.host}: {error}") from error
    finally:
        incoming.close()


async def _complete(registry: Registry, incoming: Incoming, digest: str, told: Callable[[int], None]) -> None:
    """Ask until all of it is here. A try that brings something makes up for one that brought nothing."""
    told(incoming.have)
    try:
        while incoming.have < incoming.size:
            await persistently(registry.patience, partial(_receive, registry, incoming, digest, told))
        await trio.to_thread.run_sync(incoming.finish)
    except Mismatch:
        incoming.drop()
        raise


async def _receive(registry: Registry, incoming: Incoming, digest: str, told: Callable[[int], None]) -> None:
    """One request. Returns when it has brought something; raises ``Passing`` when it has not."""
    before = incoming.have
    portion = bytearray()
    interrupted: Passing | None = None
    try:
        async with registry.blob(digest, incoming.have) as body, aclosing(body.pieces()) as pieces:
            if body.offset != incoming.have:
                incoming.restart()
                before = 0
            async for piece in pieces:
                portion += piece
                if len(portion) >= _PORTION:
                    await _write(incoming, portion, told)
                    portion = bytearray()
    except Passing as error:
        interrupted = error
    await _write(incoming, portion, told)
    if incoming.have == before:
        raise interrupted or Passing(f"{registry.endpoint.host} sent nothing of a blob")


async def _write(incoming: Incoming, portion: bytearray, told: Callable[[int], None]) -> None:
    if portion:
        await trio.to_thread.run_sync(incoming.write, bytes(portion))
        told(incoming.have)
