"""api's side of unpacking: what goes to the worker, and what may come back."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from typing import Any

import pytest

from nsbox.oci import layers
from nsbox.oci.layers import Caps, Compression, LayerRefused, Reason

_REPORT = {
    "diff_id": "sha256:0",
    "entries": 3,
    "bytes": 4,
    "devices_skipped": 1,
    "xattrs_dropped": 2,
    "peak_kib": 5,
    "seconds": 0.5,
}


class FakeKeeper:
    """Answers as a worker would: on the second of the three descriptors."""

    def __init__(self, answer: bytes, status: int = 0) -> None:
        self.answer, self.status = answer, status
        self.order: dict[str, Any] = {}
        self.asked: tuple[str, str] = ("", "")
        self.blob = -1

    async def task(self, key: str, name: str, argument: str, descriptors: Sequence[int]) -> int:
        self.asked, self.blob = (name, argument), descriptors[0]
        with socket.socket(fileno=os.dup(descriptors[1])) as worker:
            self.order = json.loads(worker.recv(4096))
            if self.answer:
                worker.sendall(self.answer)
        return self.status


async def unpack(keeper: FakeKeeper, caps: Caps | None = None) -> layers.LayerReport:
    return await layers.unpack(
        keeper, 0, "sha256-abc", compression=Compression.ZSTD, diff_id="sha256:1", caps=caps
    )


async def test_what_is_asked_and_what_is_told() -> None:
    keeper = FakeKeeper(json.dumps(_REPORT).encode())
    report = await unpack(keeper, Caps(max_entries=7))
    assert keeper.asked == ("unpack", "sha256-abc")
    assert keeper.blob == 0
    assert (keeper.order["compression"], keeper.order["diff_id"]) == ("zstd", "sha256:1")
    assert keeper.order["limits"]["max_entries"] == 7
    assert (report.diff_id, report.entries, report.bytes, report.devices_skipped) == ("sha256:0", 3, 4, 1)


async def test_a_refusal_keeps_its_reason_and_its_cost() -> None:
    answer = {"reason": "ratio", "detail": "too much", "peak_kib": 9, "seconds": 1.5}
    with pytest.raises(LayerRefused) as caught:
        await unpack(FakeKeeper(json.dumps(answer).encode()))
    refused = caught.value
    assert (refused.reason, refused.detail) == (Reason.RATIO, "too much")
    assert (refused.peak_kib, refused.seconds) == (9, 1.5)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"reason": "whatever", "detail": ""}',
        b'{"reason": "ratio"}',
        b'{"entries": 1}',
    ],
)
async def test_nonsense_is_a_fault_of_ours(answer: bytes) -> None:
    with pytest.raises(LayerRefused) as caught:
        await unpack(FakeKeeper(answer, status=127 << 8))
    assert caught.value.reason is Reason.INTERNAL
    assert str(127 << 8) in caught.value.detail


async def test_no_descriptor_is_left() -> None:
    before = os.listdir("/proc/self/fd")
    keeper = FakeKeeper(json.dumps(_REPORT).encode())
    await unpack(keeper)
    for answer in (b"", b"{}"):
        with pytest.raises(LayerRefused):
            await unpack(FakeKeeper(answer))
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_caps_and_limits_have_the_same_fields() -> None:
    from nsbox.oci.unpacking.limits import Limits

    assert set(Caps.__struct_fields__) == set(Limits._fields)
