from __future__ import annotations

import re

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from nsbox.keeper import layout
from nsbox.model.lifecycle import State
from nsbox.model.sandbox import Backend, Limits, Sandbox, Storage, new_sandbox_id
from nsbox.plan import launch
from nsbox.wire.framing import decode, encode
from nsbox.wire.messages import TO_KEEPER

SANDBOX = Sandbox(
    id=new_sandbox_id(), owner="ann", state=State.CREATING, timeout_ms=1, template="default",
    layers=("top", "base"),
    limits=Limits(vcpus=3, memory_mb=512, storage_mb=1024, pids=64), env={"SECRET": "hunter-two"},
    region="local",
    created_at=1.0, expires_at=2.0, deadline=3.0, boot_id="b",
)  # fmt: skip
STORAGE = Storage(Backend.QUOTA, 1000 << 20, 128)


def test_units_of_the_kernel() -> None:
    order = launch.order(SANDBOX, STORAGE)
    assert (order.cpu_quota_us, order.memory_bytes, order.pids) == (60_000, 512 << 20, 64)
    # What really holds, and not what was asked for.
    assert (order.storage, order.storage_bytes, order.inodes) == ("quota", 1000 << 20, 128)
    assert order.id == SANDBOX.id
    assert order.layers == ("top", "base")


def test_no_secret_goes_to_keeper() -> None:
    assert b"hunter-two" not in encode(launch.order(SANDBOX, STORAGE))
    assert b"SECRET" not in encode(launch.order(SANDBOX, STORAGE))


@given(st.integers(1, 64), st.integers(1, 1 << 20), st.integers(1, 1 << 20), st.integers(1, 1 << 22))
def test_any_limits_arrive_and_none_means_no_limit(vcpus: int, memory: int, storage: int, pids: int) -> None:
    limits = Limits(vcpus=vcpus, memory_mb=memory, storage_mb=storage, pids=pids)
    room = Storage(Backend.WATCHED, storage, storage)
    order = launch.order(msgspec.structs.replace(SANDBOX, limits=limits), room)
    assert decode(encode(order), TO_KEEPER) == order
    assert layout.is_order(order)
    assert min(order.cpu_quota_us, order.memory_bytes, order.pids, order.storage_bytes, order.inodes) > 0


def test_host_names_are_valid_and_tell_sandboxes_apart() -> None:
    names = {launch.hostname(new_sandbox_id()) for _ in range(200)}
    assert len(names) == 200
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name) for name in names)


def test_the_last_environment_wins() -> None:
    got = launch.environment({"A": "1", "B": "1", "C": "1"}, {"B": "2", "C": "2"}, {"C": "3", "D": ""})
    assert got == ("A=1", "B=2", "C=3", "D=")
