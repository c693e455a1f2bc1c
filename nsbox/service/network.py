"""The network of sandboxes: policies that change, and what was refused."""

import msgspec

from nsbox.host.keeper import KeeperLink
from nsbox.model.lifecycle import Action, after
from nsbox.model.network import NetworkPolicy, NetworkState, Refusal
from nsbox.model.sandbox import Sandbox
from nsbox.plan import network
from nsbox.service.registry import Registry
from nsbox.settings import Settings

_REFUSAL = msgspec.json.Decoder(Refusal)


class Network:
    """Over the registry's sandboxes, by way of keeper."""

    def __init__(self, registry: Registry, keeper: KeeperLink, settings: Settings) -> None:
        self._registry, self._keeper, self._settings = registry, keeper, settings

    def state(self) -> NetworkState:
        told = self._keeper.network
        return NetworkState(bool(told.up), told.detail)

    async def set(self, owner: str, sandbox_id: str, policy: NetworkPolicy) -> Sandbox:
        """Keeper first: what the record says is never stricter than what holds."""
        record = await self._registry.record(owner, sandbox_id)
        after(record.state, Action.NETWORK)
        live = self._registry.find(sandbox_id)
        assert live is not None  # the table lets the living alone through
        await self._keeper.set_network(sandbox_id, network.told(policy, self._settings.network_reachable))
        return await self._registry.move(live, Action.NETWORK, network=policy)

    async def log(self, owner: str, sandbox_id: str) -> list[Refusal]:
        """What was refused to a sandbox. It goes with the sandbox."""
        record = await self._registry.record(owner, sandbox_id)
        if not record.state.alive:
            return []
        return [_REFUSAL.decode(row) for row in await self._keeper.refusals(sandbox_id)]
