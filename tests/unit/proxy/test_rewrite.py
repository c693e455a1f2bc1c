"""What a sandbox gets to see of a request, and a visitor of an answer."""

from __future__ import annotations

import base64

import pytest

from nsbox.plan import edge
from nsbox.plan.previews import Target
from nsbox.proxy import head, rewrite
from nsbox.proxy.rewrite import Client

ID = "sb_" + "a" * 32
TARGET = Target(ID, 8080)
STRANGER, FRIEND = Client("203.0.113.7", False), Client("10.0.0.1", True)
KEY = "nsbox_" + "k" * 43
PRESET = "a-preset-key-of-16"


def sent(lines: str, who: Client = STRANGER, target: Target = TARGET, path: str = "/x") -> list[str]:
    request = head.request(f"GET {path} HTTP/1.1\r\nHost: h.localhost\r\n{lines}\r\n".encode("latin-1"))
    data = rewrite.request_head(request, who, target, lambda presented: presented == PRESET)
    assert data.endswith(b"\r\n\r\n")
    return data.decode("latin-1")[:-4].split("\r\n")


def test_a_request_without_anything_special() -> None:
    assert sent("Accept: */*\r\nCookie: a=b\r\n") == [
        "GET /x HTTP/1.1", "Host: h.localhost", "Accept: */*", "Cookie: a=b", "X-Forwarded-For: 203.0.113.7",
        "X-Forwarded-Proto: http", "X-Forwarded-Host: h.localhost",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        f"Authorization: Bearer {KEY}", f"authorization: bearer {KEY}", f"Authorization: Bearer {PRESET}",
        "Authorization: Basic " + base64.b64encode(f"x:{PRESET}".encode()).decode(),
        "Authorization: Basic " + base64.b64encode(f"{PRESET}:".encode()).decode(),
        f"X-Api-Key: {KEY}", f"Cookie: a=b; key={KEY}", f"X-Anything: before{KEY}after",
        "Proxy-Authorization: Bearer x",
    ],
)  # fmt: skip
def test_keys_are_never_forwarded(line: str) -> None:
    told = "\n".join(sent(f"{line}\r\n"))
    assert line.partition(":")[0].lower() + ":" not in told.lower()


def test_somebody_elses_credentials_are() -> None:
    assert "Authorization: Bearer theirs" in sent("Authorization: Bearer theirs\r\n")


def test_the_cookie_of_links_is_not_forwarded() -> None:
    assert "Cookie: a=b; c=d" in sent("Cookie: a=b; nsbox_link=1.x; c=d\r\n")
    assert "Cookie: c=d" in sent("Cookie: nsbox_link=1.x; c=d\r\n")
    assert not any(line.startswith("Cookie") for line in sent("Cookie: nsbox_link=1.x\r\n"))


CLAIMS = (
    "X-Forwarded-For: 1.2.3.4\r\nX_Forwarded_For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\n"
)
CLAIMS += "X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Prefix: /evil\r\n"


def test_what_a_stranger_claims_is_replaced() -> None:
    told = sent(CLAIMS)
    assert [line for line in told if "1.2.3.4" in line or "evil" in line] == []
    assert "X-Forwarded-For: 203.0.113.7" in told
    assert "X-Forwarded-Proto: http" in told


def test_what_a_trusted_proxy_says_is_taken() -> None:
    told = sent(CLAIMS, FRIEND)
    assert "X-Forwarded-For: 1.2.3.4, 10.0.0.1" in told
    assert "X-Forwarded-Proto: https" in told
    assert "X-Forwarded-Host: h.localhost" in told
    assert "X-Forwarded-Proto: http" in sent("X-Forwarded-Proto: gopher\r\n", FRIEND)


def test_what_belongs_to_the_connection_goes() -> None:
    told = sent("Connection: close, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nUpgrade: h2c\r\n")
    assert [line.partition(":")[0] for line in told[2:]] == [
        "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host",
    ]  # fmt: skip


def test_nobody_gets_host_or_length_removed() -> None:
    told = sent("Connection: host, content-length, x-forwarded-for\r\nContent-Length: 3\r\n")
    assert "Host: h.localhost" in told
    assert "Content-Length: 3" in told
    assert "X-Forwarded-For: 203.0.113.7" in told


def test_an_upgrade() -> None:
    told = sent("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n")
    assert told[-2:] == ["Connection: Upgrade", "Upgrade: websocket"]


def test_the_path_form() -> None:
    target = Target(ID, 8080, f"/p/{ID}/8080".encode())
    told = sent("", target=target, path=f"/p/{ID}/8080/a?b")
    assert told[0] == "GET /a?b HTTP/1.1"
    assert f"X-Forwarded-Prefix: /p/{ID}/8080" in told
    assert sent("", target=target, path=f"/p/{ID}/8080")[0] == "GET / HTTP/1.1"
    assert sent("", target=target, path=f"/p/{ID}/8080?x")[0] == "GET /?x HTTP/1.1"


def test_an_answer() -> None:
    told = head.response(
        b"HTTP/1.0 200 Fine\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 5\r\n"
        b"Content-Length: 2\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n"
    )
    assert rewrite.response_head(told, close=False) == (
        b"HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n"
    )
    assert b"\r\nConnection: close\r\n" in rewrite.response_head(told, close=True)


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("11.0.0.1", False),
        ("fe80::1%eth0", False),
        ("::1", True),
    ],
)
def test_who_is_trusted(address: str, trusted: bool) -> None:
    assert rewrite.client(address, edge.trusted("10.0.0.0/8, ::1")).trusted is trusted
    assert not rewrite.client(address, edge.trusted("")).trusted
