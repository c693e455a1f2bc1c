"""Started as the ordinary account: a keeper of its own, and layers unpacked below it, timed.

Orders come as JSON on standard input: the state folder, whether the layers are left there and, for each turn,
a blob's path and digest. What is timed is what an import does: read and verify the blob, keep a copy of it on
disk, and unpack it, to disk as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from typing import Any

import trio

from nsbox import supervisor
from nsbox.host import outer
from nsbox.host.keeper import KeeperLink
from nsbox.keeper.config import Config
from nsbox.oci import layers

_CHUNK = 1 << 20


def main() -> None:
    """Print a JSON list with the turns' figures."""
    orders = json.load(sys.stdin)
    os.chdir("/")
    uids, gids = supervisor.subordinate_ids()
    lifeline, ours = os.pipe2(os.O_CLOEXEC)
    announced, announce = os.pipe2(os.O_CLOEXEC)
    config = Config(orders["state"], 1, "", (), lifeline, announce)
    pid = outer.start("nsbox.keeper.main", config.to_json(), uids, gids, (lifeline, announce))
    os.close(announce)
    try:
        if os.read(announced, 64) != b"ready\n":
            sys.exit("keeper did not start")
        told = trio.run(_turns, orders["state"], orders["turns"], orders["keep"])
    finally:
        os.close(ours)
        os.waitpid(pid, 0)
    print(json.dumps(told))


async def _turns(state: str, turns: list[dict[str, str]], keep: bool) -> list[dict[str, Any]]:
    link = KeeperLink(os.open(f"{state}/run", os.O_RDONLY | os.O_DIRECTORY), lambda _: None)
    await link.greet()
    told = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.listen)
        for number, turn in enumerate(turns):
            told.append(await _turn(link, state, number, turn))
            if not keep:
                nothing = os.open(os.devnull, os.O_RDWR)
                await link.task(f"remove-{number}", "remove-layer", f"layer-{number}", (nothing, nothing, 2))
        nursery.cancel_scope.cancel()
    link.close()
    return told


async def _turn(link: KeeperLink, state: str, number: int, turn: dict[str, str]) -> dict[str, Any]:
    copy = f"{state}/blob"
    begun = time.perf_counter()
    _import(turn["blob"], turn["digest"], copy)
    imported = time.perf_counter()
    blob = os.open(copy, os.O_RDONLY)
    report = await layers.unpack(
        link, blob, f"layer-{number}", compression=layers.Compression.GZIP, diff_id=turn["diff_id"]
    )
    ended = time.perf_counter()
    os.close(blob)
    os.unlink(copy)
    return {
        "ms": (ended - begun) * 1000,
        "unpack_ms": (ended - imported) * 1000,
        "box_ms": report.seconds * 1000,
        "peak_kib": report.peak_kib,
        "entries": report.entries,
        "bytes": report.bytes,
    }


def _import(source: str, wanted: str, copy: str) -> None:
    digest = hashlib.sha256()
    with open(source, "rb") as reader, open(copy, "wb") as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    if digest.hexdigest() != wanted:
        sys.exit("the blob is another one")


if __name__ == "__main__":
    main()
