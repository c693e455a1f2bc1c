"""``/sandboxes``: create, look, pause, resume, time, kill, and what it uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nsbox.client.call import Call, body, milliseconds, part, query, reader, variables
from nsbox.client.types.file import Changes
from nsbox.client.types.image import Forks, Snapshot
from nsbox.client.types.sandbox import AutoPause, Metrics, Network, NetworkLog, SandboxInfo, Status

#: An image may have to be pulled first, a sandbox to be copied, and swap to be written.
_PULL, _COPY, _SWAP = 600.0, 600.0, 30.0
Policy = Network | Mapping[str, Any]


def at(sandbox_id: str) -> str:
    """Where a sandbox is."""
    return f"/sandboxes/{part(sandbox_id)}"


def create(
    top: str,
    *,
    image: str | None = None,
    template: str | None = None,
    snapshot: str | None = None,
    vcpus: int | None = None,
    memory_mb: int | None = None,
    storage_mb: int | None = None,
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
    network: Policy | None = None,
    pull: str | None = None,
    auto_pause: AutoPause | None = None,
    on_expiry: str | None = None,
    auto_resume: bool | None = None,
    idempotency_key: str | None = None,
) -> Call[SandboxInfo]:
    """Make a sandbox. ``timeout``: its life, in seconds. Without a key of yours one is made, so that a create
    whose answer was lost is not done twice."""
    wish = body(
        image=image,
        template_id=template,
        snapshot=snapshot,
        vcpus=vcpus,
        memory_mb=memory_mb,
        storage_mb=storage_mb,
        timeout_ms=milliseconds(timeout),
        env_vars=variables(env),
        network=_policy(network),
        pull=pull,
        auto_pause=auto_pause,
        on_expiry=on_expiry,
        auto_resume=auto_resume,
    )
    path = f"{top}/sandboxes"
    return Call("POST", path, reader(SandboxInfo), body=wish, keyed=True, key=idempotency_key, patience=_PULL)


def _policy(network: Policy | None) -> dict[str, Any] | None:
    """What a policy is told as, so that an answer can be a wish."""
    if isinstance(network, Network):
        return {"mode": network.mode, "allow": network.allow, "deny": network.deny, "ports": network.ports}
    return None if network is None else dict(network)


def get_all(top: str, *, status: str | Iterable[str] | None = None) -> Call[list[SandboxInfo]]:
    """Your sandboxes, oldest first: those alive, or of these states, or ``all``."""
    states = status if status is None or isinstance(status, str) else ",".join(status)
    return Call("GET", f"{top}/sandboxes", reader(list[SandboxInfo]), query=query(status=states), safe=True)


def get(here: str) -> Call[SandboxInfo]:
    """How it is now; also of one that has ended, for some days."""
    return Call("GET", here, reader(SandboxInfo), safe=True)


def find(top: str, sandbox_id: str) -> Call[SandboxInfo]:
    """One of yours."""
    return get(top + at(sandbox_id))


def kill(here: str) -> Call[Status]:
    """End it, and wait until none of its processes is left. Killing a dead one changes nothing."""
    return Call("DELETE", here, reader(Status), safe=True, patience=60)


def pause(here: str) -> Call[Status]:
    """Let it stand still, with its memory and files, and its time. ``reclaimed_bytes`` went to swap."""
    return Call("POST", f"{here}/pause", reader(Status), safe=True, patience=_SWAP)


def resume(here: str) -> Call[Status]:
    """Let it go on."""
    return Call("POST", f"{here}/resume", reader(Status), safe=True, patience=_SWAP)


def set_timeout(here: str, timeout: float) -> Call[Status]:
    """It ends so many seconds from now, whatever was said before."""
    wish = body(timeout_ms=milliseconds(timeout))
    return Call("POST", f"{here}/timeout", reader(Status), body=wish, safe=True)


def set_lifecycle(
    here: str,
    *,
    auto_pause: AutoPause | None = None,
    on_expiry: str | None = None,
    auto_resume: bool | None = None,
) -> Call[Status]:
    """What it does by itself, as a whole: what is not given is off."""
    wish = body(auto_pause=auto_pause, on_expiry=on_expiry, auto_resume=auto_resume)
    return Call("PUT", f"{here}/lifecycle", reader(Status), body=wish, safe=True)


def metrics(here: str, *, history: bool = True) -> Call[Metrics]:
    """What it uses now and used in the last hour."""
    asked = query(history=None if history else "false")
    return Call("GET", f"{here}/metrics", reader(Metrics), query=asked, safe=True)


def network(here: str) -> Call[Network]:
    """What it may reach."""
    return Call("GET", f"{here}/network", reader(Network), safe=True)


def set_network(
    here: str,
    *,
    mode: str | None = None,
    allow: Iterable[str] | None = None,
    deny: Iterable[str] | None = None,
    ports: Iterable[int | str] | None = None,
) -> Call[Network]:
    """What it may reach from now on, as a whole: what is not given is the daemon's default."""
    lists = {"allow": allow, "deny": deny, "ports": ports}
    given = {name: list(value) for name, value in lists.items() if value is not None}
    return Call("PUT", f"{here}/network", reader(Network), body=body(mode=mode, **given), safe=True)


def network_log(here: str) -> Call[NetworkLog]:
    """What was refused, oldest first."""
    return Call("GET", f"{here}/network/log", reader(NetworkLog), safe=True)


def snapshot(here: str, *, name: str = "", consistent: bool = False) -> Call[Snapshot]:
    """Keep what it has written. Not sent again after a lost answer: there would be two."""
    wish = body(name=name, consistent=consistent)
    return Call("POST", f"{here}/snapshots", reader(Snapshot), body=wish, patience=_COPY)


def snapshots(here: str) -> Call[list[Snapshot]]:
    """Those of this sandbox."""
    return Call("GET", f"{here}/snapshots", reader(list[Snapshot]), safe=True)


def fork(
    here: str,
    *,
    count: int = 1,
    vcpus: int | None = None,
    memory_mb: int | None = None,
    storage_mb: int | None = None,
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
    network: Policy | None = None,
) -> Call[Forks]:
    """``count`` new ones with its files. Not sent again after a lost answer: there would be twice as many."""
    wish = body(
        count=count,
        vcpus=vcpus,
        memory_mb=memory_mb,
        storage_mb=storage_mb,
        timeout_ms=milliseconds(timeout),
        env_vars=variables(env),
        network=_policy(network),
    )
    return Call("POST", f"{here}/fork", reader(Forks), body=wish, patience=_COPY)


def diff(here: str, *, after: str | None = None, limit: int | None = None) -> Call[Changes]:
    """What is different from what it was made from; ``next`` of one page is ``after`` of the next."""
    asked = query(after=after, limit=limit)
    return Call("GET", f"{here}/diff", reader(Changes), query=asked, safe=True, patience=_COPY)
