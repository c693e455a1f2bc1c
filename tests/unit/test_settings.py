from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox import settings as module
from nsbox.model.errors import HostProblem
from nsbox.settings import PLANS, Bound, LimitsMode, Plan, Registry, Settings, default_state_dir, load

HOME = {"HOME": "/home/ann"}
BOUNDS = [field.name for field in msgspec.structs.fields(Settings) if field.type is Bound]


def test_defaults() -> None:
    files = ("/home/ann/.config/containers/auth.json", "/home/ann/.docker/config.json")
    assert load(HOME) == Settings(state_dir="/home/ann/.local/state/nsbox", registry_auth_files=files)
    assert load(HOME).host == "127.0.0.1"  # nobody else can reach it unless told so
    assert load(HOME).limits is LimitsMode.REQUIRED


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "nsbox.toml"
    file.write_text('port = 1001\npool_size = 1\nhost = "toml"\n[vcpus]\nlow = 1\nhigh = 9\ndefault = 3\n')
    environment = {**HOME, "NSBOX_CONFIG": str(file), "NSBOX_PORT": "1002", "NSBOX_POOL_SIZE": "2"}
    got = load(environment, {"port": 1003, "host": None})
    assert (got.port, got.pool_size, got.host, got.vcpus) == (1003, 2, "toml", Bound(1, 9, 3))


def test_a_file_on_the_command_line_wins_over_the_environments(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("port = 1")
    (tmp_path / "b.toml").write_text("port = 2")
    environment = {**HOME, "NSBOX_CONFIG": str(tmp_path / "a.toml")}
    assert load(environment, config_file=str(tmp_path / "b.toml")).port == 2


def test_other_variables_mean_nothing() -> None:
    assert load({**HOME, "PORT": "1", "nsbox_port": "2", "NSBOX_UNHEARD_OF": "3"}) == load(HOME)


def test_no_setting_is_a_secret() -> None:
    key = "s3cret-key"
    assert key not in repr(load({**HOME, module.BOOTSTRAP_KEY_VARIABLE: key}))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XDG_STATE_HOME": "/xdg", "HOME": "/h"}, "/xdg/nsbox"),
        ({"XDG_STATE_HOME": "", "HOME": "/h"}, "/h/.local/state/nsbox"),
        ({}, os.path.expanduser("~/.local/state/nsbox")),
    ],
)
def test_where_the_state_is(environment: dict[str, str], expected: str) -> None:
    assert default_state_dir(environment) == expected


def test_the_state_folder_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(HOME, {"state_dir": "x/../y"}).state_dir == str(tmp_path / "y")
    assert load({**HOME, "NSBOX_STATE_DIR": ""}).state_dir == "/home/ann/.local/state/nsbox"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("PORT", "http"),
        ("PORT", ""),
        ("PORT", "80.5"),
        ("POOL_SIZE", "257"),
        ("POOL_SIZE", "-1"),
        ("MAX_SANDBOXES", "0"),
        ("MAX_SANDBOXES", "8001"),  # their ids would not fit into one message
        ("PIDS", "0"),
        ("LIMITS", "some"),
        ("VCPUS", "1"),
        ("VCPUS", "1,2"),
        ("VCPUS", "1,2,3,4"),
        ("VCPUS", "1,x,1"),
        ("VCPUS", "4,1,2"),
        ("VCPUS", "1,4,5"),
        ("MEMORY_MB", "0,4,1"),
    ],
)
def test_an_error_names_the_setting(name: str, value: str) -> None:
    with pytest.raises(HostProblem, match=f"(?i){name}"):
        load({**HOME, f"NSBOX_{name}": value})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("prot = 80", "prot"),
        ("port = [80]", "port"),
        ("state_dir = 5", "state_dir"),
        ("[vcpus]\nlow = 1\nhigh = 2", "vcpus"),
        ("[vcpus]\nlow = 1\nhigh = 2\ndefault = 9", "vcpus"),
        ("vcpus = 3", "vcpus"),
        ("port = ", "cannot be read"),
    ],
)
def test_an_error_in_the_file(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(HostProblem, match=named):
        load(HOME, config_file=str(tmp_path / "c.toml"))


def test_a_file_that_is_missing_or_is_not_text(tmp_path: Path) -> None:
    with pytest.raises(HostProblem, match=r"none\.toml"):
        load(HOME, config_file=str(tmp_path / "none.toml"))
    (tmp_path / "c.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(HostProblem, match="cannot be read"):
        load(HOME, config_file=str(tmp_path / "c.toml"))
    with pytest.raises(HostProblem):
        load(HOME, config_file=str(tmp_path))


def test_a_problem_says_what_to_do() -> None:
    with pytest.raises(HostProblem) as caught:
        load({**HOME, "NSBOX_PORT": "x"})
    assert caught.value.remedy
    assert caught.value.remedy in str(caught.value)


def test_where_credentials_are_looked_for() -> None:
    environment = {
        "HOME": "/h",
        "REGISTRY_AUTH_FILE": "/r/auth.json",
        "XDG_RUNTIME_DIR": "/run/user/5",
        "XDG_CONFIG_HOME": "/c",
        "DOCKER_CONFIG": "/d",
    }
    assert load(environment).registry_auth_files == (
        "/r/auth.json",
        "/run/user/5/containers/auth.json",
        "/c/containers/auth.json",
        "/d/config.json",
    )
    assert load({**environment, "NSBOX_REGISTRY_AUTH_FILES": ""}).registry_auth_files == ()


def test_lists_and_tables(tmp_path: Path) -> None:
    got = load({**HOME, "NSBOX_IMAGES_ALLOWED": "alpine, ghcr.io/a/*"})
    assert got.images_allowed == ("alpine", "ghcr.io/a/*")
    file = tmp_path / "c.toml"
    file.write_text(
        '[registries."docker.io"]\nmirrors = ["m.example:5000"]\n[registries."r:1"]\ninsecure = true\n'
    )
    in_file = load(HOME, config_file=str(file)).registries
    assert in_file == {"docker.io": Registry(mirrors=("m.example:5000",)), "r:1": Registry(insecure=True)}
    table = '{"docker.io": {"mirrors": ["m.example:5000"]}, "r:1": {"insecure": true}}'
    assert load({**HOME, "NSBOX_REGISTRIES": table}).registries == in_file
    for wrong in ("{", "[]", '{"r": {"insecure": "perhaps"}}', '{"r": {"password": "x"}}'):
        with pytest.raises(HostProblem, match=r"(?i)registries"):
            load({**HOME, "NSBOX_REGISTRIES": wrong})


def test_plans(tmp_path: Path) -> None:
    settings = load(HOME)
    assert settings.default_plan == "unlimited"
    assert settings.plan("unlimited") == Plan()
    assert settings.plan("free") == Plan(compute_seconds=3_600, vcpus=2)
    assert settings.plan("pro") == Plan(compute_seconds=108_000, vcpus=4)
    file = tmp_path / "c.toml"
    file.write_text('default_plan = "team"\n[plans.team]\nmemory_mb = 512\n[plans.free]\nsandboxes = 1\n')
    in_file = load(HOME, config_file=str(file))
    assert in_file.plan(in_file.default_plan) == Plan(memory_mb=512)
    assert in_file.plan("free") == Plan(sandboxes=1)
    assert in_file.plan("pro") == PLANS["pro"]
    table = '{"team": {"memory_mb": 512}, "free": {"sandboxes": 1}}'
    assert load({**HOME, "NSBOX_PLANS": table, "NSBOX_DEFAULT_PLAN": "team"}).plans == in_file.plans
    for wrong, match in (
        ('{"a": {"memory_mb": 511}}', "plans.a.memory_mb is 511, below the least, 512"),
        ('{"a": {"vcpus": 0}}', "vcpus"),
        ('{"a": {"seconds": 1}}', "seconds"),
        ("[]", "plans"),
        ("{", "NSBOX_PLANS wants a JSON object"),
    ):
        with pytest.raises(HostProblem, match=match):
            load({**HOME, "NSBOX_PLANS": wrong})
    with pytest.raises(HostProblem, match="there is no plan 'gold'; there are free, pro, unlimited"):
        load({**HOME, "NSBOX_DEFAULT_PLAN": "gold"})


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_are_in_order(name: str) -> None:
    bound = getattr(Settings(), name)
    assert 1 <= bound.low <= bound.default <= bound.high


numbers = st.integers(-3, 6)


@given(numbers, numbers, numbers)
def test_only_an_ordered_bound_can_be_made(low: int, high: int, default: int) -> None:
    """With a low of 0 a client could ask for "no limit", which is what 0 means to the kernel."""
    wish: dict[str, Any] = {"vcpus": {"low": low, "high": high, "default": default}}
    if 1 <= low <= default <= high:
        assert msgspec.convert(wish, Settings).vcpus == Bound(low, high, default)
    else:
        with pytest.raises(msgspec.ValidationError, match="vcpus"):
            msgspec.convert(wish, Settings)


def test_they_survive_the_way_to_api() -> None:
    """The supervisor sends them as JSON."""
    got = load({**HOME, "NSBOX_VCPUS": "1,8,2", "NSBOX_LIMITS": "best-effort"})
    assert msgspec.json.decode(msgspec.json.encode(msgspec.to_builtins(got)), type=Settings) == got


def test_any_port_for_the_api_means_any_port_for_the_proxy() -> None:
    assert module.load({"HOME": "/h"}).proxy_port == 8081
    assert module.load({"HOME": "/h", "NSBOX_PORT": "0"}).proxy_port == 0
    assert module.load({"HOME": "/h"}, {"port": 0}).proxy_port == 0
    assert module.load({"HOME": "/h"}, {"port": 0, "proxy_port": 9000}).proxy_port == 9000
    assert module.load({"HOME": "/h", "NSBOX_PROXY_PORT": "9000"}, {"port": 0}).proxy_port == 9000


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ({"url": "https:///x", "secret_file": "/s"}, "no address"),
        ({"url": "ftp://a.example/", "secret_file": "/s"}, "no address"),
        ({"url": "https://user:pass@a.example/", "secret_file": "/s"}, "no address"),
        ({"url": "http://a.example/", "secret_file": "/s"}, "readable over the internet"),
        ({"url": "https://a.example/"}, "secret_file"),
        ({"url": "https://a.example/", "secret_file": "/s", "events": ["no such"]}, "events"),
    ],
)
def test_webhooks_that_are_none(hook: dict[str, object], message: str) -> None:
    with pytest.raises(HostProblem, match=message):
        load({"HOME": "/home/ann", "NSBOX_WEBHOOKS": json.dumps({"x": hook})})


def test_webhooks_from_the_environment() -> None:
    hook = {"url": "http://127.0.0.1:9000/", "secret_file": "/s", "private": True, "events": ["killed"]}
    settings = load({"HOME": "/home/ann", "NSBOX_WEBHOOKS": json.dumps({"x": hook})})
    assert settings.webhooks["x"].events == ("killed",)
    assert settings.webhooks["x"].private
