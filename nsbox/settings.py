"""Every default and bound of nsbox, and the only reader of its environment and configuration file.

Order, later wins: the defaults below, ``nsbox.toml``, ``NSBOX_*`` in the environment, the command line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from nsbox.model import domains
from nsbox.model.errors import HostProblem
from nsbox.model.happening import Kind
from nsbox.model.image import PullPolicy
from nsbox.model.network import NetworkMode, network_problem, parse_network

ENV_PREFIX = "NSBOX_"
#: Read apart from the settings, so that no settings object ever holds a secret.
BOOTSTRAP_KEY_VARIABLE = "NSBOX_BOOTSTRAP_KEY"
#: Where a daemon says how to reach it, in its state folder.
ADDRESS_FILE = "address"
SYSTEM_STATE_DIR = "/var/lib/nsbox"
SERVICE_USER = "nsbox"
#: A host, perhaps a port, no user: a password in an address would be a secret in a setting.
_HOOK_URL = re.compile(r"(https?)://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?(?:[/?][^\s#]*)?")

MIB = 1024 * 1024


class LimitsMode(StrEnum):
    """What to do on a host that cannot enforce every limit."""

    REQUIRED = "required"  # refuse to serve
    BEST_EFFORT = "best-effort"  # serve, and say in every record which limits hold


class NetworkUse(StrEnum):
    """Whether sandboxes are given links at all."""

    ON = "on"
    OFF = "off"


class StorageMode(StrEnum):
    """What holds ``storageMb``."""

    AUTO = "auto"  # project quotas where they are prepared, else watched
    QUOTA = "quota"
    TMPFS = "tmpfs"
    WATCHED = "watched"


class Walls(StrEnum):
    """Whether api takes away from itself what it does not need."""

    ON = "on"
    OFF = "off"


class Bound(msgspec.Struct, frozen=True):
    """Smallest, largest and default value of a number that a client may choose."""

    low: int
    high: int
    default: int

    def __post_init__(self) -> None:
        """Zero is no value for any of them: to the kernel it would mean "no limit"."""
        if not 1 <= self.low <= self.default <= self.high:
            raise ValueError(
                f"low {self.low}, default {self.default}, high {self.high} are not in order from 1 on"
            )


class Registry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is special about one registry. ``insecure`` unset: plain HTTP for this host's loopback alone.

    ``private``: it may send downloads to private addresses. The password is in a file, so that no setting
    is a secret.
    """

    insecure: bool | None = None
    private: bool = False
    ca_file: str = ""
    mirrors: tuple[str, ...] = ()
    username: str = ""
    password_file: str = ""


class Webhook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is told what happens. The secret is in a file, so that no setting is one. ``private``: it may be at
    a private address."""

    url: str
    secret_file: str
    events: tuple[Kind, ...] = tuple(Kind)
    private: bool = False


Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[int, Meta(ge=1)]
Amount = Annotated[int, Meta(ge=0)]


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user may use, narrower than the settings' own bounds. Unset: as those have it.

    ``sandboxes``: at once. Zero compute seconds are a plan under which nothing runs.
    """

    compute_seconds: Amount | None = None
    vcpus: Positive | None = None
    memory_mb: Positive | None = None
    storage_mb: Positive | None = None
    timeout_ms: Positive | None = None
    sandboxes: Positive | None = None


UNLIMITED = "unlimited"
#: One of these names in the settings takes its place.
PLANS = {
    UNLIMITED: Plan(),
    "free": Plan(compute_seconds=3_600, vcpus=2),
    "pro": Plan(compute_seconds=108_000, vcpus=4),
}
_CAPPED = ("vcpus", "memory_mb", "storage_mb", "timeout_ms")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The daemon's settings. The names are those of ``nsbox.toml`` and, in capitals, of the environment."""

    # where
    host: str = "127.0.0.1"
    port: Port = 8080
    state_dir: str = ""
    region: str = "local"
    service_user: str = SERVICE_USER
    # sandboxes: the API's own defaults and bounds
    vcpus: Bound = Bound(1, 4, 1)
    memory_mb: Bound = Bound(512, 4096, 512)
    storage_mb: Bound = Bound(64, 102_400, 1024)
    timeout_ms: Bound = Bound(1_000, 86_400_000, 1_800_000)
    exec_timeout_ms: Bound = Bound(1, 86_400_000, 30_000)
    pids: Positive = 512
    storage: StorageMode = StorageMode.AUTO
    reserve_mb: Amount = 512
    io_read_bps: Amount = 0
    io_write_bps: Amount = 0
    io_read_iops: Amount = 0
    io_write_iops: Amount = 0
    default_template: str = "default"
    limits: LimitsMode = LimitsMode.REQUIRED
    max_sandboxes: Annotated[int, Meta(ge=1, le=8_000)] = 1_000  # their ids fit into one message
    pool_size: Annotated[int, Meta(ge=0, le=256)] = 8
    keep_records_s: Positive = 7 * 86_400
    max_snapshots: Amount = 100
    snapshot_timeout_s: Positive = 60
    # users
    plans: dict[str, Plan] = {}
    default_plan: str = UNLIMITED
    # images
    images_allowed: tuple[str, ...] = ("*",)
    image_pull: PullPolicy = PullPolicy.MISSING
    image_pull_timeout_s: Positive = 600
    image_push_timeout_s: Positive = 3_600
    image_platform: str = ""
    image_downloads: Annotated[int, Meta(ge=1, le=16)] = 3
    image_keep_s: Positive = 86_400
    max_image_bytes: Positive = 20_480 * MIB
    max_layer_bytes: Positive = 16_384 * MIB
    max_layer_entries: Positive = 600_000
    registries: dict[str, Registry] = {}
    registry_auth_files: tuple[str, ...] = ()
    templates_dir: str = ""
    # network
    network: NetworkUse = NetworkUse.ON
    network_mode: NetworkMode = NetworkMode.PUBLIC
    network_allow: tuple[str, ...] = ()
    network_deny: tuple[str, ...] = ()
    network_reachable: tuple[str, ...] = ()
    network_connections: Annotated[int, Meta(ge=1, le=65_535)] = 1_024
    network_ipv4: str = "10.209.0.0/16"
    network_ipv6: str = "fd6e:7362:6f78::/64"
    # commands
    output_limit_bytes: Positive = 10 * MIB
    log_bytes: Annotated[int, Meta(ge=64 * 1024)] = 16 * MIB
    logs_bytes: Annotated[int, Meta(ge=1 * MIB)] = 256 * MIB
    keep_ended: Annotated[int, Meta(ge=0, le=1_000)] = 64
    max_commands: Positive = 256
    # HTTP
    dashboard: bool = True
    max_json_bytes: Positive = 16 * MIB
    max_json_file_bytes: Positive = 10 * MIB
    max_upload_bytes: Positive = 10_240 * MIB
    max_connections: Positive = 2_000
    address_connections: Positive = 1_000
    user_requests: Positive = 1_000
    rate_limit: Amount = 1_000
    rate_burst: Positive = 5_000
    auth_failures: Amount = 100
    max_list_entries: Positive = 100_000
    header_timeout_s: Positive = 15
    keep_alive_s: Positive = 75
    shutdown_grace_s: Positive = 5
    # ports and previews
    proxy_host: str = "127.0.0.1"
    proxy_port: Port = 8081
    preview_url: str = ""
    trusted_proxies: str = ""
    max_ports: Annotated[int, Meta(ge=1, le=1_000)] = 64
    proxy_max_connections: Positive = 4_096
    proxy_sandbox_connections: Positive = 1_536
    proxy_idle_s: Positive = 3_600
    tcp_host: str = "127.0.0.1"
    tcp_ports: str = ""
    # processes
    hang_timeout_s: Positive = 60
    api_walls: Walls = Walls.ON
    api_memory_mb: Annotated[int, Meta(ge=512)] = 4_096
    metrics_readers: tuple[str, ...] = ()
    sweep_s: Positive = 60
    # the audit log
    audit_keep_days: Positive = 90
    audit_max_events: Annotated[int, Meta(ge=1_000)] = 1_000_000
    # webhooks
    webhooks: dict[str, Webhook] = {}

    def plan(self, name: str) -> Plan:
        """Raises ``HostProblem`` when there is none of this name."""
        found = self.plans.get(name, PLANS.get(name))
        if found is None:
            known = ", ".join(sorted({*PLANS, *self.plans}))
            raise HostProblem(
                f"there is no plan {name!r}; there are {known}", remedy="add it to plans in the settings"
            )
        return found


def default_state_dir(environment: Mapping[str, str]) -> str:
    """An ordinary user's state folder: ``$XDG_STATE_HOME/nsbox`` or ``~/.local/state/nsbox``."""
    base = environment.get("XDG_STATE_HOME") or os.path.join(
        environment.get("HOME") or os.path.expanduser("~"), ".local", "state"
    )
    return os.path.join(base, "nsbox")


def default_auth_files(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Where ``podman login`` and ``docker login`` leave what they learn, in the order of search."""
    home = environment.get("HOME") or os.path.expanduser("~")
    config = environment.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    found = [
        environment.get("REGISTRY_AUTH_FILE", ""),
        os.path.join(environment.get("XDG_RUNTIME_DIR") or "/nonexistent", "containers", "auth.json"),
        os.path.join(config, "containers", "auth.json"),
        os.path.join(environment.get("DOCKER_CONFIG") or os.path.join(home, ".docker"), "config.json"),
    ]
    return tuple(path for path in found if path and not path.startswith("/nonexistent/"))


def load(
    environment: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
    config_file: str | None = None,
) -> Settings:
    """The settings in force.

    ``overrides`` are values from the command line; ``None`` among them means "not given".
    Raises ``HostProblem`` that names the offending setting and where it came from.
    """
    values: dict[str, Any] = {}
    path = config_file or environment.get("NSBOX_CONFIG")
    if path:
        values |= _from_toml(path)
    values |= _from_environment(environment)
    values |= {name: value for name, value in (overrides or {}).items() if value is not None}
    if "proxy_port" not in values and str(values.get("port")) == "0":
        values["proxy_port"] = 0  # whoever wants any free port for the one wants no fixed one for the other
    if not values.get("state_dir"):
        values["state_dir"] = default_state_dir(environment)
    if "registry_auth_files" not in values:
        values["registry_auth_files"] = default_auth_files(environment)
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise HostProblem(
            f"a setting is wrong: {error}", remedy="see docs/settings.md for the names and bounds"
        ) from error
    _check_networks(settings)
    _check_plans(settings)
    _check_webhooks(settings)
    return msgspec.structs.replace(settings, state_dir=os.path.abspath(settings.state_dir))


def _check_networks(settings: Settings) -> None:
    for name, version, longest in (("network_ipv4", 4, 18), ("network_ipv6", 6, 112)):
        value = getattr(settings, name)
        if (problem := network_problem(value, version, longest)) is not None:
            raise HostProblem(f"a setting is wrong: {name}: {problem}", remedy="see docs/settings.md")
    for name in ("network_deny", "network_reachable"):
        for value in getattr(settings, name):
            if parse_network(value) is None:
                raise HostProblem(
                    f"a setting is wrong: {name}: {value!r} is no network", remedy="see docs/settings.md"
                )
    for value in settings.network_allow:
        if parse_network(value) is None and domains.normal(value) is None:
            raise HostProblem(
                f"a setting is wrong: network_allow: {value!r} is no network and no name",
                remedy="see docs/settings.md",
            )


def _check_plans(settings: Settings) -> None:
    """A plan narrows bounds; below the lowest value nothing could be made under it."""
    settings.plan(settings.default_plan)
    for name, plan in settings.plans.items():
        for field in _CAPPED:
            most, bound = getattr(plan, field), getattr(settings, field)
            if most is not None and most < bound.low:
                raise HostProblem(
                    f"a setting is wrong: plans.{name}.{field} is {most}, below the least, {bound.low}",
                    remedy="see docs/settings.md",
                )


def _check_webhooks(settings: Settings) -> None:
    for name, hook in settings.webhooks.items():
        found = _HOOK_URL.fullmatch(hook.url)
        if found is None:
            raise HostProblem(
                f"a setting is wrong: webhooks.{name}: {hook.url!r} is no address of the form https://HOST/PATH",
                remedy="see docs/settings.md",
            )
        if found[1] == "http" and not hook.private:
            raise HostProblem(
                f"a setting is wrong: webhooks.{name}: http sends what happens readable over the internet",
                remedy="give an address with https, or set private for one of your own network",
            )


def _from_toml(path: str) -> dict[str, Any]:
    try:
        return msgspec.toml.decode(Path(path).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HostProblem(f"the configuration file {path} cannot be read: {error}") from error


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """``NSBOX_POOL_SIZE=4`` sets ``pool_size``; ``NSBOX_VCPUS=1,8,2`` a bound (low, high, default);
    ``NSBOX_IMAGES_ALLOWED=a,b`` a list; a table is JSON."""
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(Settings):
        text = environment.get(ENV_PREFIX + field.name.upper())
        if text is None:
            continue
        if field.type is Bound:
            numbers = text.split(",")
            if len(numbers) != 3:
                raise HostProblem(f"{ENV_PREFIX}{field.name.upper()} wants low,high,default, not {text!r}")
            values[field.name] = dict(zip(("low", "high", "default"), numbers, strict=True))
        elif field.type == tuple[str, ...]:
            values[field.name] = [part.strip() for part in text.split(",") if part.strip()]
        elif field.name in ("registries", "plans", "webhooks"):
            values[field.name] = _from_json(field.name, text)
        else:
            values[field.name] = text
    return values


def _from_json(name: str, text: str) -> Any:
    """A table, in the environment."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HostProblem(f"{ENV_PREFIX}{name.upper()} wants a JSON object: {error}") from error
