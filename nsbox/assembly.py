"""What an API process is made of, in the order in which it can be made. Nothing here runs yet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import trio

from nsbox.api.services import Services
from nsbox.host.keeper import KeeperLink
from nsbox.host.storage import Reserve, Rooms
from nsbox.model.lifecycle import Action
from nsbox.model.sandbox import Sandbox
from nsbox.oci import templatefile
from nsbox.plan import edge as edge_settings
from nsbox.plan.previews import Form
from nsbox.proxy.edge import Bounds, Edge
from nsbox.proxy.server import Connections
from nsbox.proxy.tcp import Publisher
from nsbox.service.accounts import Accounts
from nsbox.service.audit import Audit
from nsbox.service.building import Building
from nsbox.service.commands import Commands
from nsbox.service.creations import Creations
from nsbox.service.cuts import Cuts
from nsbox.service.differences import Differences
from nsbox.service.exports import Exports
from nsbox.service.figures import Figures
from nsbox.service.files import Files
from nsbox.service.health import Health
from nsbox.service.images import Images
from nsbox.service.links import Links
from nsbox.service.meters import Meters
from nsbox.service.network import Network
from nsbox.service.plans import Plans
from nsbox.service.ports import Ports
from nsbox.service.pushes import Pushes
from nsbox.service.quotas import Quotas
from nsbox.service.readiness import Readiness
from nsbox.service.registry import Registry
from nsbox.service.sandboxes import Sandboxes
from nsbox.service.snapshots import Snapshots
from nsbox.service.standby import Standbys
from nsbox.service.sweep import Sweep
from nsbox.service.tally import Tally
from nsbox.service.templates import Templates
from nsbox.service.usage import Usage
from nsbox.service.webhooks import Webhooks
from nsbox.settings import Settings
from nsbox.store.audit import AuditTable
from nsbox.store.audit_tail import AuditTail
from nsbox.store.database import Database, Synchronous
from nsbox.store.deliveries import DeliveryQueue
from nsbox.store.keyring import KeyRing
from nsbox.store.ledger import Ledger
from nsbox.store.sandboxes import SandboxStore
from nsbox.store.snapshots import SnapshotStore

_STANDSTILLS = (Action.PAUSE, Action.IDLE, Action.EXPIRE, Action.EXHAUST, Action.RESUME, Action.WAKE)


@dataclass(frozen=True)
class Kept:
    """What is open of the record. ``durable`` is on disk when a call returns."""

    database: Database
    durable: Database
    ledger: Ledger
    keys: KeyRing
    tail: AuditTail
    audit: Audit
    webhooks: Webhooks

    @classmethod
    def open(cls, settings: Settings) -> Kept:
        """Raises ``HostProblem``."""
        database, tail = Database(settings.state_dir), AuditTail(settings.state_dir)
        return cls(
            database=database,
            durable=Database(settings.state_dir, Synchronous.FULL),
            ledger=Ledger(database, settings.state_dir),
            keys=KeyRing(settings.state_dir),
            tail=tail,
            audit=Audit(AuditTable(database), tail, settings.audit_keep_days, settings.audit_max_events),
            webhooks=Webhooks(DeliveryQueue(database), settings.webhooks),
        )

    def close(self) -> None:
        """In reverse."""
        self.tail.close()
        self.ledger.close()
        self.keys.close()
        self.durable.close()
        self.database.close()


@dataclass(frozen=True)
class Living:
    """Sandboxes, what they are made from, and what runs in them."""

    settings: Settings
    kept: Kept
    registry: Registry
    keeper: KeeperLink
    tally: Tally
    reserve: Reserve
    plans: Plans
    images: Images
    templates: Templates
    commands: Commands
    sandboxes: Sandboxes
    creations: Creations
    cuts: Cuts
    snapshots: Snapshots

    @classmethod
    def make(cls, settings: Settings, kept: Kept, run_dir: int, nursery: trio.Nursery) -> Living:
        """Raises ``HostProblem``: a template's file is wrong, or keeper does not listen."""
        registry, tally = Registry(SandboxStore(kept.database)), Tally()
        registry.on_move(partial(_count, tally))
        registry.on_move(kept.webhooks.moved)
        registry.on_oom(kept.webhooks.out_of_memory)
        keeper = KeeperLink(
            run_dir,
            on_gone=lambda sandbox_id: sandboxes.gone(sandbox_id),  # noqa: PLW0108 - made below
            on_storage=lambda told: sandboxes.storage(told),  # noqa: PLW0108
        )
        reserve = Reserve(settings.state_dir, settings.reserve_mb)
        images = Images(settings, keeper, nursery, lambda: living.standing(), reserve)  # noqa: PLW0108
        files = templatefile.load(templatefile.shipped_folder()) | templatefile.load(settings.templates_dir)
        templates = Templates(settings.default_template, images, files)
        commands = Commands(registry, templates, settings, nursery, tally)
        rooms = Rooms(settings.state_dir, settings.storage)
        plans = Plans(settings, registry, kept.ledger, kept.keys.plan_of)
        sandboxes = Sandboxes(
            registry, keeper, templates, settings, run_dir, nursery, commands.adopt, rooms, reserve, plans
        )
        creations = Creations(sandboxes, commands, registry, nursery, tally)
        cuts = Cuts(keeper, settings, nursery)
        store = SnapshotStore(kept.database)
        snapshots = Snapshots(
            store, registry, images, templates, cuts, sandboxes, creations, settings, reserve, nursery
        )
        living = cls(
            settings=settings,
            kept=kept,
            registry=registry,
            keeper=keeper,
            tally=tally,
            reserve=reserve,
            plans=plans,
            images=images,
            templates=templates,
            commands=commands,
            sandboxes=sandboxes,
            creations=creations,
            cuts=cuts,
            snapshots=snapshots,
        )
        return living

    def standing(self) -> list[tuple[str, ...]]:
        """The layers that nobody may remove, whatever the images say."""
        alive = [live.record.layers for live in self.registry.all()]
        return [*alive, tuple(self.templates.layers()), *self.snapshots.stacks()]


def _count(tally: Tally, action: Action, record: Sandbox) -> None:
    """A sandbox has moved from one state to another."""
    if record.state.final:
        tally.ends.add(record.end_reason.value if record.end_reason is not None else "unknown")
    elif action in _STANDSTILLS:
        tally.standstills.add(action.value)


@dataclass(frozen=True)
class Front:
    """What strangers reach: the ports of sandboxes."""

    form: Form
    ports: Ports
    edge: Edge
    connections: Connections

    @classmethod
    def make(cls, living: Living, proxy_port: int, nursery: trio.Nursery) -> Front:
        """Ports that were published by an earlier process are published again."""
        settings = living.settings
        form = edge_settings.form(settings, proxy_port)
        publisher = Publisher(settings.tcp_host, edge_settings.host_ports(settings.tcp_ports), nursery)
        ports = Ports(living.registry, form, Links(settings.state_dir), publisher, settings.max_ports)
        trusted = edge_settings.trusted(settings.trusted_proxies)
        edge = Edge(ports, form, trusted, living.kept.keys.is_key, _bounds(settings))
        connections = Connections(edge)
        publisher.use(connections)
        ports.republish()
        return cls(form, ports, edge, connections)


def _bounds(settings: Settings) -> Bounds:
    return Bounds(
        head_s=settings.header_timeout_s,
        keep_alive_s=settings.keep_alive_s,
        idle_s=settings.proxy_idle_s,
        connections=settings.proxy_max_connections,
        address_connections=settings.address_connections,
        sandbox_connections=settings.proxy_sandbox_connections,
        grace_s=settings.shutdown_grace_s,
    )


@dataclass(frozen=True)
class Watches:
    """What looks after the living by itself."""

    health: Health
    meters: Meters
    standbys: Standbys
    quotas: Quotas
    sweep: Sweep

    @classmethod
    def make(cls, living: Living, front: Front, nursery: trio.Nursery) -> Watches:
        settings, registry, keeper = living.settings, living.registry, living.keeper
        pauses = living.sandboxes.pauses
        return cls(
            health=Health(registry, keeper, living.reserve, living.kept.database, settings),
            meters=Meters(registry, settings.state_dir),
            standbys=Standbys(registry, pauses, nursery, living.commands.busy, front.edge.visited),
            quotas=Quotas(living.plans, registry, pauses, nursery, on_out=living.kept.webhooks.out_of_quota),
            sweep=Sweep(
                registry, living.sandboxes, keeper, settings.state_dir, settings.sweep_s, living.tally
            ),
        )

    def tasks(self) -> list[Callable[[], Awaitable[None]]]:
        """To be run for as long as the process lives."""
        return [
            self.health.watch,
            self.meters.watch,
            self.standbys.watch,
            self.quotas.watch,
            self.sweep.watch,
        ]


def services(living: Living, front: Front, watches: Watches, nursery: trio.Nursery) -> Services:
    """All that the HTTP layer needs."""
    settings, registry, images = living.settings, living.registry, living.images
    commands, keeper, kept = living.commands, living.keeper, living.kept
    counts = front.edge.counts
    return Services(
        reserve=living.reserve,
        sandboxes=living.sandboxes,
        creations=living.creations,
        standbys=watches.standbys,
        templates=living.templates,
        images=images,
        building=Building(images, living.sandboxes, commands, registry, living.cuts, settings),
        commands=commands,
        readiness=Readiness(commands, front.ports),
        files=Files(registry, settings, living.reserve),
        ports=front.ports,
        network=Network(registry, keeper, settings),
        snapshots=living.snapshots,
        differences=Differences(registry, images, keeper),
        exports=Exports(images, keeper),
        pushes=Pushes(settings, images, keeper, nursery),
        health=watches.health,
        meters=watches.meters,
        figures=Figures(
            registry,
            keeper,
            images,
            watches.meters,
            watches.health,
            living.tally,
            lambda: sum(counts.values()),
        ),
        keys=kept.keys,
        accounts=Accounts(kept.durable),
        plans=living.plans,
        usage=Usage(kept.ledger),
        audit=kept.audit,
    )
