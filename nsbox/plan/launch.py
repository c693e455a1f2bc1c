"""From what a client wants to what keeper is told. Pure."""

from nsbox.model.sandbox import Sandbox, Storage
from nsbox.plan import network
from nsbox.wire.messages import Create

_MIB = 1 << 20
_PERIOD_US = 20_000  # kernel/cgroup.py has it too, where it is written
_HOSTNAME_LENGTH = 12


def order(sandbox: Sandbox, storage: Storage, reachable: tuple[str, ...] = ()) -> Create:
    """keeper's order for a sandbox: units of the kernel instead of those of the API.

    ``reachable``: the networks inside that the operator lets be opened.
    """
    limits = sandbox.limits
    return Create(
        id=sandbox.id,
        layers=sandbox.layers,
        hostname=hostname(sandbox.id),
        cpu_quota_us=limits.vcpus * _PERIOD_US,
        memory_bytes=limits.memory_mb * _MIB,
        pids=limits.pids,
        network=network.told(sandbox.network, reachable),
        storage_bytes=storage.size,
        storage=storage.backend.value,
        inodes=storage.inodes,
    )


def hostname(sandbox_id: str) -> str:
    """A valid host name that tells sandboxes apart in a prompt: ``sb-`` and the id's first characters."""
    return sandbox_id.replace("_", "-")[:_HOSTNAME_LENGTH]


def environment(
    template: dict[str, str], sandbox: dict[str, str], command: dict[str, str]
) -> tuple[str, ...]:
    """A command's environment as ``NAME=value``: the image's, the sandbox's, its own; the last one wins."""
    return tuple(f"{name}={value}" for name, value in {**template, **sandbox, **command}.items())
