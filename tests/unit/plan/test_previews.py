from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.model.errors import HostProblem
from nsbox.plan import edge, previews
from nsbox.plan.previews import Target
from nsbox.settings import Settings

IDS = st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=32, max_size=32).map(lambda text: f"sb_{text}")
PORTS = st.integers(1, 65_535)
FORMS = [
    "",
    "http://*.localhost:9000",
    "https://*.preview.example.org",
    "https://example.org/p",
    "http://localhost",
]
ID = "sb_" + "a" * 32


@given(IDS, PORTS, st.sampled_from(FORMS))
def test_an_address_leads_back(sandbox_id: str, port: int, setting: str) -> None:
    form = previews.form(setting, 8081)
    url = urlsplit(form.url(sandbox_id, port))
    assert url.hostname is not None
    found = form.target(url.hostname.upper(), url.path.encode() + b"a?b")
    assert found is not None
    assert found[:2] == (sandbox_id, port)
    assert all(len(label) <= 63 for label in url.hostname.split("."))


@pytest.mark.parametrize(
    ("setting", "url"),
    [
        ("", f"http://sb-{'a' * 32}-80.localhost:8081/"),
        ("https://*.sandbox.dev", f"https://sb-{'a' * 32}-80.sandbox.dev/"),
        ("https://sandbox.dev:444/p/", f"https://sandbox.dev:444/p/{ID}/80/"),
    ],
)
def test_addresses(setting: str, url: str) -> None:
    assert previews.form(setting, 8081).url(ID, 80) == url


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        f"sb-{'a' * 32}-80.evil",
        f"sb-{'a' * 32}-80.localhost.evil",
        f"sb-{'a' * 32}-80.x.localhost",
        f"x.sb-{'a' * 32}-80.localhost",
        f"sb-{'a' * 31}-80.localhost",
        f"sb-{'a' * 32}-0.localhost",
        f"sb-{'a' * 32}-080.localhost",
        f"sb-{'a' * 32}-65536.localhost",
        f"sb-{'1' * 32}-80.localhost",
        f"sb-{'a' * 32}.localhost",
        f"sb_{'a' * 32}-80.localhost",
        "",
        ".",
        f"sb-{'a' * 32}-80.localhost.",
    ],
)
def test_hosts_that_are_no_preview(host: str) -> None:
    assert previews.form("", 8081).target(host, b"/") is None


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/p",
        f"/p/{ID}",
        f"/p/{ID}/80x",
        f"/p/{ID}/0/",
        f"/P/{ID}/80/",
        f"/p/../p/{ID}/80/",
        f"/q/{ID}/80/",
    ],
)
def test_paths_that_are_no_preview(path: str) -> None:
    assert previews.form("http://localhost/p", 8081).target("localhost", path.encode()) is None


def test_the_prefix_of_a_path() -> None:
    form = previews.form("http://localhost/p", 8081)
    assert form.target("localhost", f"/p/{ID}/80?x".encode()) == Target(ID, 80, f"/p/{ID}/80".encode())
    assert form.target("other", f"/p/{ID}/80/".encode()) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("preview_url", "ftp://*.localhost"),
        ("preview_url", "http://*.localhost/p"),
        ("preview_url", "localhost"),
        ("preview_url", "http://x.*.localhost"),
        ("preview_url", "http://*.localhost:99999"),
        ("preview_url", "http://*.localhost\r\nX: y"),
        ("trusted_proxies", "10.0.0.1/8"),
        ("trusted_proxies", "nginx"),
        ("tcp_ports", "80-90"),
        ("tcp_ports", "9000-8000"),
        ("tcp_ports", "a-b"),
        ("tcp_ports", "65000-70000"),
    ],
)
def test_settings_that_cannot_be_used(name: str, value: str) -> None:
    with pytest.raises(HostProblem, match=name):
        edge.check(Settings(**{name: value}))


def test_settings_that_can() -> None:
    edge.check(Settings())
    edge.check(
        Settings(tcp_ports="30000-30010", trusted_proxies="10.0.0.0/8, ::1", preview_url="https://a.b/p")
    )
    assert edge.host_ports("30000-30001") == range(30_000, 30_002)
    assert len(edge.host_ports("")) == 0
