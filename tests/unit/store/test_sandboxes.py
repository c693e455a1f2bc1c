from __future__ import annotations

import sqlite3

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.model.lifecycle import EndReason, State
from nsbox.model.request import Request
from nsbox.model.sandbox import Limits, Sandbox, new_sandbox_id
from nsbox.store import sandboxes
from nsbox.store.database import Database
from nsbox.store.sandboxes import RecordMissingError, SandboxStore


def make(
    owner: str = "ann", state: State = State.RUNNING, created_at: float = 1.0, **more: object
) -> Sandbox:
    sandbox = Sandbox(
        id=new_sandbox_id(),
        owner=owner,
        state=state,
        limits=Limits(vcpus=1, memory_mb=512, storage_mb=1024, pids=512),
        timeout_ms=1000,
        template="default",
        layers=("sha256:a", "sha256:b"),
        env={"TOKEN": "s€cret"},
        region="local",
        created_at=created_at,
        expires_at=created_at + 1,
        deadline=99.5,
        boot_id="b",
        enforced=("memory", "pids"),
    )
    return msgspec.structs.replace(sandbox, **more)


@pytest.fixture
def store(database: Database) -> SandboxStore:
    return SandboxStore(database)


async def test_what_goes_in_comes_out(store: SandboxStore) -> None:
    sandbox = make()
    await store.insert(sandbox)
    assert await store.get(sandbox.id) == sandbox
    ended = msgspec.structs.replace(
        sandbox, state=State.STOPPED, ended_at=2.0, end_reason=EndReason.KILLED, owner="bob"
    )
    await store.update(ended)
    assert await store.get(sandbox.id) == ended
    assert await store.list("bob", {State.STOPPED}) == [ended]
    assert await store.list("ann", frozenset(State)) == []
    assert await store.all_alive() == []


async def test_unknown_id(store: SandboxStore) -> None:
    assert await store.get("sb_none") is None
    with pytest.raises(RecordMissingError):
        await store.update(make())


async def test_insert_twice(store: SandboxStore) -> None:
    sandbox = make()
    await store.insert(sandbox)
    with pytest.raises(sqlite3.IntegrityError):
        await store.insert(sandbox)


async def test_list_by_owner_and_state_oldest_first(store: SandboxStore) -> None:
    late, early = make(created_at=2.0), make(created_at=1.0, state=State.PAUSED)
    for sandbox in (late, early, make("bob"), make(state=State.LOST)):
        await store.insert(sandbox)
    assert await store.list("ann", {State.RUNNING, State.PAUSED}) == [early, late]
    assert await store.list("ann", {State.RUNNING}) == [late]
    assert await store.list("ann", ()) == []


async def test_all_alive_and_prune_part_the_states(store: SandboxStore) -> None:
    rows = [make(state=state, ended_at=5.0) for state in State]
    for sandbox in rows:
        await store.insert(sandbox)
    alive = {sandbox.id for sandbox in rows if sandbox.state.alive}
    assert {sandbox.id for sandbox in await store.all_alive()} == alive
    assert await store.prune(5.0) == 0
    assert await store.prune(5.1) == len(rows) - len(alive)
    assert {sandbox.id for sandbox in await store.list("ann", frozenset(State))} == alive


async def test_prune_spares_what_has_no_end(store: SandboxStore) -> None:
    await store.insert(make(state=State.FAILED))
    assert await store.prune(1e12) == 0


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_any_environment_survives_the_row(env: dict[str, str]) -> None:
    sandbox = make(env=env)
    assert sandboxes._DECODER.decode(sandboxes._row(sandbox)["body"]).env == env


async def test_what_a_request_has_made(store: SandboxStore) -> None:
    request = Request("k", "b")
    first, second = make(request=request, created_at=1.0), make(request=request, created_at=2.0)
    for one in (second, first, make(request=Request("other", "b")), make(), make("eve", request=request)):
        await store.insert(one)
    assert await store.requested("ann", "k") == [first, second]
    await store.update(msgspec.structs.replace(first, request=None))
    assert await store.requested("ann", "k") == [second]
