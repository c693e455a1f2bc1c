from __future__ import annotations

from pathlib import Path

import pytest

from nsbox.model.errors import HostProblem
from nsbox.model.ports import Port
from nsbox.plan.previews import Target
from nsbox.proxy import access, head
from nsbox.service import clock
from nsbox.service.links import FILE_NAME, Links

ID, OTHER = "sb_" + "a" * 32, "sb_" + "b" * 32
PORT = Port(port=8080, public=False, salt="s")


@pytest.fixture
def links(tmp_path: Path) -> Links:
    return Links(str(tmp_path))


def soon() -> int:
    return int(clock.wall()) + 60


def test_a_link_opens_its_port_and_nothing_else(links: Links) -> None:
    until = soon()
    token = links.sign(ID, PORT, until)
    assert links.expiry(token, ID, PORT) == until
    assert links.expiry(token, OTHER, PORT) is None
    assert links.expiry(token, ID, Port(port=8081, salt="s")) is None
    assert links.expiry(token, ID, Port(port=8080, salt="exposed anew")) is None
    moment, _, mac = token.partition(".")
    assert links.expiry(f"{int(moment) + 1}.{mac}", ID, PORT) is None
    assert links.expiry(f"0{moment}.{mac}", ID, PORT) in (None, until)
    for wrong in ("", ".", token[:-1], token + "A", f"{moment}.", "9.é" + "a" * 42, f"-1.{mac}"):
        assert links.expiry(wrong, ID, PORT) is None


def test_a_link_expires(links: Links) -> None:
    assert links.expiry(links.sign(ID, PORT, int(clock.wall()) - 1), ID, PORT) is None


def test_the_key_stays_and_is_private(tmp_path: Path, links: Links) -> None:
    token = links.sign(ID, PORT, soon())
    assert Links(str(tmp_path)).expiry(token, ID, PORT) is not None
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600
    (tmp_path / FILE_NAME).write_bytes(b"short")
    with pytest.raises(HostProblem, match="not a key"):
        Links(str(tmp_path))


def judged(text: str, *, admitted: str = "T", fields: str = "", scheme: bytes = b"http") -> access.Verdict:
    request = head.request(f"{text} HTTP/1.1\r\nHost: h\r\n{fields}\r\n".encode())
    until = soon()
    return access.judge(request, Target(ID, 8080), lambda token: until if token == admitted else None, scheme)


HTML = "Accept: text/html,*/*\r\n"


def test_without_a_link_nobody_is_let_in() -> None:
    for one in (
        judged("GET /"),
        judged("GET /?nsbox_link=x"),
        judged("GET /", fields="Cookie: nsbox_link=x\r\n"),
    ):
        assert one.request is None


def test_a_browser_is_sent_on_without_the_token() -> None:
    verdict = judged("GET /a?b=1&nsbox_link=T&c=2", fields=HTML)
    assert verdict.redirect == b"/a?b=1&c=2"
    assert verdict.cookie.startswith(b"nsbox_link=T; Path=/; Max-Age=")
    assert b"HttpOnly" in verdict.cookie
    assert b"Domain" not in verdict.cookie
    assert b"Secure" not in verdict.cookie
    assert b"Secure" in judged("GET /?nsbox_link=T", fields=HTML, scheme=b"https").cookie


def test_nobody_is_sent_to_another_host() -> None:
    assert judged("GET //evil/?nsbox_link=T", fields=HTML).redirect == b"/evil/"
    assert judged("GET /\\evil?nsbox_link=T", fields=HTML).redirect == b"/evil"


def test_a_program_is_let_in_as_it_came() -> None:
    verdict = judged("POST /a?nsbox_link=T")
    assert verdict.request is not None
    assert verdict.request.target == b"/a"
    assert verdict.redirect is None


def test_the_cookie_lets_in() -> None:
    verdict = judged("GET /a?x", fields="Cookie: a=b; nsbox_link=T\r\n")
    assert verdict.request is not None
    assert verdict.request.target == b"/a?x"
