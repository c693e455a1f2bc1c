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
from typing import ClassVar, NamedTuple

import msgspec
import prctl
import trio

from nsbox.api.app import create_app
from nsbox.api.server import serve
from nsbox.assembly import Front, Kept, Living, Watches, services
from nsbox.host import heartbeat, systemd, walls
from nsbox.host.endpoint import Closed
from nsbox.host.keeper import KeeperLink
from nsbox.kernel import journal
from nsbox.model.errors import HostProblem
from nsbox.oci import templatefile
from nsbox.plan import edge as edge_settings
from nsbox.proxy.server import serve as serve_previews
from nsbox.service.embedding import default_template, remove_unused
from nsbox.service.pulse import Pulse
from nsbox.settings import ADDRESS_FILE, BOOTSTRAP_KEY_VARIABLE, Settings, Walls
from nsbox.store.database import Database
from nsbox.store.keyring import KeyRing
from nsbox.store.keys import KeyTable

_log = logging.getLogger(__name__)

#: How often the last use of keys is written down, in seconds.
_NOTE_USES = 30.0
#: How long after one answer of keeper's the next is asked for, in seconds.
_BEAT = 2.0


class Orders(msgspec.Struct, frozen=True):
    """What the supervisor writes to standard input."""

    settings: Settings
    bootstrap_key: str | None = None
    #: A pipe to the supervisor: a byte each time keeper has answered. -1: nobody listens.
    heartbeat: int = -1
    #: The delegated one, below which memory of paused sandboxes is reclaimed. Empty: there is none.
    cgroup: str = ""


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
    _put_up_walls(orders)
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


def _put_up_walls(orders: Orders) -> None:
    """Before anything that comes from outside is opened or read, and before there are threads."""
    settings = orders.settings
    if settings.api_walls is Walls.OFF:
        _log.warning("around api: nothing, since api_walls is off")
        return
    named = [settings.templates_dir, templatefile.shipped_folder(), *settings.registry_auth_files]
    for registry in settings.registries.values():
        named += [registry.ca_file, registry.password_file]
    named += [hook.secret_file for hook in settings.webhooks.values()]
    places = walls.Places(
        state_dir=settings.state_dir,
        cgroup=orders.cgroup,
        reading=tuple(path for path in named if path),
        ports=edge_settings.host_ports(settings.tcp_ports),
    )
    standing = walls.put_up(places, settings.api_memory_mb, os.environ)
    _log.log(logging.INFO if standing.all else logging.WARNING, "around api: %s", standing)


async def _run(orders: Orders, listeners: Listeners) -> None:
    settings = orders.settings
    first_key = _first_key(settings, orders.bootstrap_key)
    run_dir = os.open(os.path.join(settings.state_dir, "run"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    kept = Kept.open(settings)
    try:
        async with trio.open_nursery() as nursery:
            try:
                living = Living.make(settings, kept, run_dir, nursery)
                await _restore(living, orders, nursery)
                await _serve(living, orders, listeners, nursery, first_key)
            finally:
                await kept.audit.close()  # nobody asks any more, and the record is open still
                with trio.CancelScope(shield=True):
                    await kept.webhooks.flush()
            nursery.cancel_scope.cancel()
    finally:
        kept.close()
        os.close(run_dir)


async def _restore(living: Living, orders: Orders, nursery: trio.Nursery) -> None:
    """Take over what lives, after which requests may come."""
    settings = orders.settings
    alive = await living.keeper.greet()
    nursery.start_soon(living.keeper.listen)
    # From here on, not from the first request on: the first start builds a template, which takes its time.
    nursery.start_soon(_beat, living.keeper, orders.heartbeat)
    template = await default_template(settings.state_dir, living.keeper)
    living.templates.add(template)
    await living.snapshots.load()
    pulse = Pulse(living.kept.ledger, living.registry, living.keeper)
    await pulse.begin()
    nursery.start_soon(pulse.watch)
    await living.sandboxes.reconcile(alive)
    await living.snapshots.reconcile()
    living.commands.remember()
    nursery.start_soon(living.commands.clear_unused)
    used = {layer for stack in living.standing() for layer in stack} | set(template.layers)
    nursery.start_soon(remove_unused, settings.state_dir, living.keeper, used)


async def _serve(
    living: Living, orders: Orders, listeners: Listeners, nursery: trio.Nursery, first_key: str | None
) -> None:
    """Answer requests until told to stop."""
    settings, kept = orders.settings, living.kept
    front = Front.make(living, listeners.proxy.getsockname()[1], nursery)
    watches = Watches.make(living, front, nursery)
    for task in (
        *watches.tasks(),
        living.sandboxes.expire,
        living.sandboxes.keep_house,
        living.images.keep_house,
        kept.audit.watch,
        kept.webhooks.run,
    ):
        nursery.start_soon(task)
    nursery.start_soon(_note_uses, kept.keys, kept.database)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as serving:
            app = create_app(services(living, front, watches, nursery), settings)
            serving.start_soon(app.ongoing.watch)
            await serving.start(serve_previews, listeners.proxy, front.edge, front.connections)
            await serving.start(serve, app, listeners.api, settings)
            watches.health.ready = True
            heartbeat.send(orders.heartbeat, heartbeat.READY)
            print(f"nsbox previews: {front.form}", flush=True)
            _announce(settings, listeners.api, first_key)
            received = await anext(aiter(signals))
            watches.health.ready = False
            if received == signal.SIGTERM:
                # Still serving: whoever waits for a command is told that its sandbox is gone.
                living.sandboxes.refuse_new()
                with trio.move_on_after(settings.shutdown_grace_s):
                    await living.sandboxes.end_all()
            serving.cancel_scope.cancel()


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
