"""The composition root of api: ``main(API-LISTENER,PROXY-LISTENER)``, as descriptors; its orders as JSON on
standard input.

Everything is acquired in order and released in reverse. Started by the supervisor, and again when it dies:
sandboxes and their commands outlive it.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import sys
from functools import partial
from typing import ClassVar, NamedTuple

import msgspec
import prctl
import trio

from nsbox.api.app import create_app
from nsbox.api.server import serve
from nsbox.api.services import Services
from nsbox.host import heartbeat, systemd
from nsbox.host.endpoint import Closed
from nsbox.host.keeper import KeeperLink
from nsbox.host.storage import Reserve, Rooms
from nsbox.kernel import journal
from nsbox.model.errors import HostProblem
from nsbox.model.lifecycle import Action
from nsbox.model.sandbox import Sandbox
from nsbox.oci import templatefile
from nsbox.plan import edge as edge_settings
from nsbox.plan.previews import Form
from nsbox.proxy.edge import Bounds, Edge
from nsbox.proxy.server import Connections
from nsbox.proxy.server import serve as serve_previews
from nsbox.proxy.tcp import Publisher
from nsbox.service.accounts import Accounts
from nsbox.service.audit import Audit
from nsbox.service.building import Building
from nsbox.service.commands import Commands
from nsbox.service.creations import Creations
from nsbox.service.cuts import Cuts
from nsbox.service.differences import Differences
from nsbox.service.embedding import default_template, remove_unused
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
from nsbox.service.pulse import Pulse
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
from nsbox.settings import ADDRESS_FILE, BOOTSTRAP_KEY_VARIABLE, Settings
from nsbox.store.audit import AuditTable
from nsbox.store.database import Database, Synchronous
from nsbox.store.deliveries import DeliveryQueue
from nsbox.store.keyring import KeyRing
from nsbox.store.keys import KeyTable
from nsbox.store.ledger import Ledger
from nsbox.store.sandboxes import SandboxStore
from nsbox.store.snapshots import SnapshotStore

_log = logging.getLogger(__name__)

#: How often the last use of keys is written down, in seconds.
_NOTE_USES = 30.0
#: How long after one answer of keeper's the next is asked for, in seconds.
_BEAT = 2.0
_STANDSTILLS = (Action.PAUSE, Action.IDLE, Action.EXPIRE, Action.EXHAUST, Action.RESUME, Action.WAKE)


class Orders(msgspec.Struct, frozen=True):
    """What the supervisor writes to standard input."""

    settings: Settings
    bootstrap_key: str | None = None
    #: A pipe to the supervisor: a byte each time keeper has answered. -1: nobody listens.
    heartbeat: int = -1


class Listeners(NamedTuple):
    """The sockets that the supervisor holds."""

    api: socket.socket
    proxy: socket.socket


def main(arguments: list[str]) -> int:
    """Run api until told to stop; the exit status."""
    prctl.set_pdeathsig(signal.SIGKILL)
    prctl.set_no_new_privs(1)
    prctl.set_name("nsbox-api")
    os.umask(0o077)
    _log_to_stderr()
    # It tells every request's address at INFO, and those that registries redirect to are signed.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    orders = msgspec.json.decode(sys.stdin.buffer.read(), type=Orders)
    _raise_descriptor_limit()
    listeners = Listeners(*(socket.socket(fileno=int(one)) for one in arguments[0].split(",")))
    status = 0
    try:
        trio.run(_run, orders, listeners)
    except* (HostProblem, Closed) as group:
        status = heartbeat.GAVE_UP
        for problem in _leaves(group):
            journal.say(journal.ERROR, f"nsbox: {problem}")
    return status


class _Priorities(logging.Formatter):
    """The priority as journald takes it, on every line of a message: a traceback has many."""

    _BY_LEVEL: ClassVar = {logging.ERROR: journal.ERROR, logging.WARNING: journal.WARNING}

    def format(self, record: logging.LogRecord) -> str:
        head = f"<{self._BY_LEVEL.get(record.levelno, journal.INFO)}>"
        return "\n".join(head + line for line in super().format(record).splitlines())


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    if journal.is_journal(os.environ):
        # The journal has a field for the level already.
        handler.setFormatter(_Priorities("%(name)s: %(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """trio wraps an error once for every nursery it passes."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _raise_descriptor_limit() -> None:
    """Each sandbox takes two descriptors and each command three; the soft limit of 1024 is for select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _run(orders: Orders, listeners: Listeners) -> None:
    settings = orders.settings
    first_key = _first_key(settings, orders.bootstrap_key)
    run_dir = os.open(os.path.join(settings.state_dir, "run"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    database = Database(settings.state_dir)
    kept = _Kept(
        database=database,
        durable=Database(settings.state_dir, Synchronous.FULL),
        ledger=Ledger(database, settings.state_dir),
        keys=KeyRing(settings.state_dir),
        audit=Audit(AuditTable(database), settings.audit_keep_days, settings.audit_max_events),
        webhooks=Webhooks(DeliveryQueue(database), settings.webhooks),
    )
    try:
        async with trio.open_nursery() as nursery:
            try:
                await _serve(orders, kept, run_dir, listeners, nursery, first_key)
            finally:
                await kept.audit.close()  # nobody asks any more, and the record is open still
                with trio.CancelScope(shield=True):
                    await kept.webhooks.flush()
            nursery.cancel_scope.cancel()
    finally:
        kept.ledger.close()
        kept.keys.close()
        kept.durable.close()
        database.close()
        os.close(run_dir)


class _Kept(NamedTuple):
    """What is open of the record. ``durable`` is on disk when a call returns."""

    database: Database
    durable: Database
    ledger: Ledger
    keys: KeyRing
    audit: Audit
    webhooks: Webhooks


async def _serve(
    orders: Orders,
    kept: _Kept,
    run_dir: int,
    listeners: Listeners,
    nursery: trio.Nursery,
    first_key: str | None,
) -> None:
    settings = orders.settings
    database, durable, ledger, keys, audit, webhooks = kept
    registry = Registry(SandboxStore(database))
    keeper = KeeperLink(
        run_dir,
        on_gone=lambda sandbox_id: sandboxes.gone(sandbox_id),  # noqa: PLW0108 - made below
        on_storage=lambda told: sandboxes.storage(told),  # noqa: PLW0108
    )

    def standing() -> list[tuple[str, ...]]:
        """The layers that nobody may remove, whatever the images say."""
        living = [live.record.layers for live in registry.all()]
        return [*living, tuple(templates.layers()), *snapshots.stacks()]

    images = Images(settings, keeper, nursery, standing)
    files = templatefile.load(templatefile.shipped_folder()) | templatefile.load(settings.templates_dir)
    templates = Templates(settings.default_template, images, files)
    tally = Tally()
    registry.on_move(partial(_count, tally))
    registry.on_move(webhooks.moved)
    registry.on_oom(webhooks.out_of_memory)
    commands = Commands(registry, templates, settings, nursery, tally)
    rooms = Rooms(settings.state_dir, settings.storage)
    reserve = Reserve(settings.state_dir, settings.reserve_mb)
    plans = Plans(settings, registry, ledger, keys.plan_of)
    sandboxes = Sandboxes(
        registry, keeper, templates, settings, run_dir, nursery, commands.adopt, rooms, reserve, plans
    )
    creations = Creations(sandboxes, commands, registry, nursery, tally)
    cuts = Cuts(keeper, settings, nursery)
    snapshots = Snapshots(
        SnapshotStore(database),
        registry,
        images,
        templates,
        cuts,
        sandboxes,
        creations,
        settings,
        reserve,
        nursery,
    )
    alive = await keeper.greet()
    nursery.start_soon(keeper.listen)
    # From here on, not from the first request on: the first start builds a template, which takes its time.
    nursery.start_soon(_beat, keeper, orders.heartbeat)
    template = await default_template(settings.state_dir, keeper)
    templates.add(template)
    await snapshots.load()
    pulse = Pulse(ledger, registry, keeper)
    await pulse.begin()
    await sandboxes.reconcile(alive)
    await snapshots.reconcile()
    commands.remember()
    nursery.start_soon(commands.clear_unused)
    health = Health(registry, keeper, reserve, database, settings)
    sweep = Sweep(registry, sandboxes, keeper, settings.state_dir, settings.sweep_s, tally)
    meters = Meters(registry, settings.state_dir)
    form = edge_settings.form(settings, listeners.proxy.getsockname()[1])
    publisher = Publisher(settings.tcp_host, edge_settings.host_ports(settings.tcp_ports), nursery)
    ports = Ports(registry, form, Links(settings.state_dir), publisher, settings.max_ports)
    edge = _edge(settings, ports, form, keys)
    quotas = Quotas(plans, registry, sandboxes.pauses, nursery, on_out=webhooks.out_of_quota)
    standbys = Standbys(registry, sandboxes.pauses, nursery, commands.busy, edge.visited)
    connections = Connections(edge)
    publisher.use(connections)
    ports.republish()
    services = Services(
        sandboxes=sandboxes,
        creations=creations,
        standbys=standbys,
        templates=templates,
        images=images,
        building=Building(images, sandboxes, commands, registry, cuts, settings),
        commands=commands,
        readiness=Readiness(commands, ports),
        files=Files(registry, settings, reserve),
        ports=ports,
        network=Network(registry, keeper, settings),
        snapshots=snapshots,
        differences=Differences(registry, images, keeper),
        exports=Exports(images, keeper),
        health=health,
        meters=meters,
        figures=Figures(registry, keeper, images, meters, health, tally, lambda: sum(edge.counts.values())),
        keys=keys,
        accounts=Accounts(durable),
        plans=plans,
        usage=Usage(ledger),
        audit=audit,
    )
    for task in (
        sandboxes.expire,
        sandboxes.keep_house,
        standbys.watch,
        pulse.watch,
        quotas.watch,
        meters.watch,
        health.watch,
        audit.watch,
        webhooks.run,
        sweep.watch,
        images.keep_house,
    ):
        nursery.start_soon(task)
    nursery.start_soon(_note_uses, keys, database)
    used = {layer for stack in standing() for layer in stack} | set(template.layers)
    nursery.start_soon(remove_unused, settings.state_dir, keeper, used)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as serving:
            await serving.start(serve_previews, listeners.proxy, edge, connections)
            await serving.start(serve, create_app(services, settings), listeners.api, settings)
            health.ready = True
            heartbeat.send(orders.heartbeat, heartbeat.READY)
            print(f"nsbox previews: {form}", flush=True)
            _announce(settings, listeners.api, first_key)
            received = await anext(aiter(signals))
            health.ready = False
            if received == signal.SIGTERM:
                # Still serving: whoever waits for a command is told that its sandbox is gone.
                sandboxes.refuse_new()
                with trio.move_on_after(settings.shutdown_grace_s):
                    await sandboxes.end_all()
            serving.cancel_scope.cancel()


def _edge(settings: Settings, ports: Ports, form: Form, keys: KeyRing) -> Edge:
    bounds = Bounds(
        head_s=settings.header_timeout_s,
        keep_alive_s=settings.keep_alive_s,
        idle_s=settings.proxy_idle_s,
        connections=settings.proxy_max_connections,
        sandbox_connections=settings.proxy_sandbox_connections,
        grace_s=settings.shutdown_grace_s,
        address_connections=settings.address_connections,
    )

    return Edge(ports, form, edge_settings.trusted(settings.trusted_proxies), keys.is_key, bounds)


def _count(tally: Tally, action: Action, record: Sandbox) -> None:
    """A sandbox has moved from one state to another."""
    if record.state.final:
        tally.ends.add(record.end_reason.value if record.end_reason is not None else "unknown")
    elif action in _STANDSTILLS:
        tally.standstills.add(action.value)


async def _beat(keeper: KeeperLink, pipe: int) -> None:
    """A byte for the supervisor whenever keeper has answered: this loop turns, and so does keeper's."""
    while True:
        await keeper.ping()
        heartbeat.send(pipe, heartbeat.BEAT)
        await trio.sleep(_BEAT)


async def _note_uses(keys: KeyRing, database: Database) -> None:
    """When each key was last used, for ``nsbox keys list``: now and then, not on every request."""
    while True:
        await trio.sleep(_NOTE_USES)
        try:
            await keys.record_use(database)
        except HostProblem as problem:
            _log.warning("the use of keys is not recorded: %s", problem.detail)


def _first_key(settings: Settings, preset: str | None) -> str | None:
    """Make sure that there is a key; the plaintext of one that was made just now, to be shown once."""
    with KeyTable(settings.state_dir) as table:
        if preset is not None:
            if table.import_key(preset, "bootstrap").revoked_at is not None:
                raise HostProblem(
                    f"the key in {BOOTSTRAP_KEY_VARIABLE} has been revoked", remedy="preset another one"
                )
            return None
        if table.list():
            return None
        return table.create("first")[1]


def _announce(settings: Settings, listener: socket.socket, first_key: str | None) -> None:
    """The one line that says sandboxes can be made now, and the first key, if there is one to show.

    A key goes to a terminal only. Elsewhere standard output ends up in a log, which is no place for it.
    """
    host, port = listener.getsockname()[:2]
    if first_key is not None:
        _show(first_key, settings.state_dir)
    shown = f"[{host}]" if ":" in host else host
    _write_address(settings.state_dir, f"http://{shown}:{port}")
    if settings.dashboard:
        print(f"nsbox dashboard: http://{shown}:{port}/", flush=True)
    print(f"nsbox ready: http://{shown}:{port}", flush=True)
    systemd.notify("READY=1")


def _write_address(state_dir: str, url: str) -> None:
    """For commands on this host that are to use the daemon which holds this state."""
    path = os.path.join(state_dir, ADDRESS_FILE)
    with open(f"{path}.new", "w", encoding="ascii") as file:
        file.write(url + "\n")
    os.rename(f"{path}.new", path)


def _show(key: str, state_dir: str) -> None:
    if sys.stdout.isatty():
        print(f"nsbox key (shown once): {key}", flush=True)
        return
    path = os.path.join(state_dir, "first-key")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(key + "\n")
    print(f"nsbox key: in {path}; read it, then delete the file", flush=True)
