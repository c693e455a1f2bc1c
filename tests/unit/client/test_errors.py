"""Errors by whose fault it is; and the key is in none of them."""

from __future__ import annotations

import json
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.api.problems import TABLE
from nsbox.client import (
    ApiError,
    AsyncClient,
    Client,
    CommandFailed,
    Conflict,
    Forbidden,
    InvalidRequest,
    NotAuthenticated,
    NotFound,
    NsboxError,
    QuotaExhausted,
    Retries,
    SandboxNotFound,
    ServerFailed,
    TooMany,
    UnexpectedAnswer,
)
from nsbox.client.address import address, checked_key
from nsbox.client.agent import acting_for
from nsbox.client.errors import from_answer
from nsbox.client.events import Event, Events
from nsbox.client.types import NewKey
from tests.unit.client.fakes import KEY, RESULT, document, event, problem
from tests.unit.client.server import answer, cutting

KINDS = {
    401: NotAuthenticated,
    402: QuotaExhausted,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    429: TooMany,
}
ONCE = Retries(patience=0)


@pytest.mark.parametrize("code", TABLE)
def test_every_code_of_nsbox_has_its_class(code):
    status = TABLE[code].status
    body = json.dumps({"code": code.value, "detail": "it is so", "status": status}).encode()
    error = from_answer(status, body)
    wanted = KINDS.get(status) or (ServerFailed if status >= 500 else InvalidRequest)
    assert isinstance(error, wanted)
    assert (error.code, error.status, error.detail) == (code.value, status, "it is so")


def test_what_an_error_tells():
    document = {
        "code": "invalid_field",
        "detail": "too big",
        "field": "vcpus",
        "remedy": "ask for less",
        "maximum": 4,
    }
    error = from_answer(422, json.dumps(document).encode())
    assert str(error) == "too big; ask for less (invalid_field, HTTP 422)"
    assert (error.field, error.remedy, error.document["maximum"]) == ("vcpus", "ask for less", 4)
    assert isinstance(from_answer(404, b'{"code":"sandbox_not_found"}'), SandboxNotFound)


@given(
    body=st.binary()
    | st.recursive(
        st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    ).map(lambda x: json.dumps(x).encode()),
    status=st.integers(300, 599),
)
def test_whatever_is_answered_is_an_error_that_can_be_shown(body, status):
    error = from_answer(status, body)
    assert isinstance(error, ApiError)
    assert str(status) in str(error)


def test_a_page_of_a_proxy_is_no_document():
    page = answer(b"<html>bad gateway</html>", 502, "text/html")
    with (
        cutting(lambda _: page) as server,
        Client(server.url, KEY, retries=ONCE) as nsbox,
        pytest.raises(ServerFailed, match="HTTP 502"),
    ):
        nsbox.list()


@pytest.mark.parametrize("body", [b"", b"{", b"<html>", b'{"id": 1}', b"\xff", b"[]"])
def test_another_server_is_noticed(body):
    with cutting(lambda _: answer(body)) as server, Client(server.url, KEY) as nsbox:
        with pytest.raises(UnexpectedAnswer):
            nsbox.sandbox("sb_1").exec("x")
        assert len(server.seen) == 1


def test_a_redirect_is_not_followed():
    with cutting(lambda _: answer(b"", 302, location="http://elsewhere.example/")) as server:
        with Client(server.url, KEY, retries=ONCE) as nsbox, pytest.raises(ApiError, match="HTTP 302"):
            nsbox.list()
        assert len(server.seen) == 1


# ---- the key


def check_hidden(error: BaseException) -> None:
    told = "".join(traceback.format_exception(error)) + repr(error) + str(error) + repr(vars(error))
    assert KEY not in told


def test_the_key_is_in_no_error_even_if_it_is_sent_back():
    def reply(seen):
        given = seen.headers["authorization"]
        told = {
            "code": "invalid_key",
            "detail": f"{given} is wrong",
            "field": given,
            "remedy": given,
            "x": given,
        }
        if "stream" in seen.target:
            return answer(event("problem", {**told, "status": 401}), 200, "text/event-stream")
        return answer(json.dumps(told).encode(), 401, "application/problem+json")

    with cutting(reply) as server, Client(server.url, KEY) as nsbox:
        box = nsbox.sandbox("sb_1")
        for act in (
            nsbox.list,
            lambda: box.exec("x"),
            lambda: list(box.stream("x")),
            lambda: box.files.read("/x"),
        ):
            with pytest.raises(NotAuthenticated) as told:
                act()
            check_hidden(told.value)
            assert "…" in str(told.value)


async def test_the_same_for_tasks():
    def reply(seen):
        return problem(401, "invalid_key", f"{seen.headers['authorization']} is wrong")

    with cutting(reply) as server:
        async with AsyncClient(server.url, KEY) as nsbox:
            with pytest.raises(NotAuthenticated) as told:
                await nsbox.list()
            check_hidden(told.value)
            assert KEY not in repr(nsbox)


def test_the_key_is_in_no_repr():
    with Client("http://127.0.0.1:1", KEY, retries=ONCE) as nsbox:
        assert repr(nsbox) == "<Client http://127.0.0.1:1>"
        for thing in (nsbox.keys, nsbox.sandbox("sb_1"), nsbox.sandbox("sb_1").files):
            assert KEY not in repr(thing)
        with pytest.raises(NsboxError) as told:
            nsbox.list()
        check_hidden(told.value)
    assert "very" not in repr(NewKey(id="key_1", name="n", key="very-secret"))


@pytest.mark.parametrize("key", ["", "a b", "a\r\nX: y", "é", "\x7f"])
def test_a_key_that_is_none_is_not_told(key):
    with pytest.raises(ValueError, match="visible ASCII") as told:
        Client("http://h", key or " ")
    assert key == "" or key not in str(told.value)
    with pytest.raises(ValueError, match="visible ASCII"):
        checked_key(key)


@pytest.mark.parametrize(
    "url", ["", "h:1", "ftp://h", "http://", "http://h:x", "http://h/?a=b", "http://h/#f", "http://h/a b"]
)
def test_what_is_no_address(url):
    with pytest.raises(ValueError):
        address(url)


def test_an_address_has_no_password():
    with pytest.raises(ValueError, match="no password") as told:
        address("http://me:sesame@h")
    assert "sesame" not in str(told.value)


@pytest.mark.parametrize(
    ("url", "shown", "path"),
    [
        ("http://h", "http://h", "/api/v1/x"),
        ("http://h:8080/", "http://h:8080", "/api/v1/x"),
        ("https://h:443/api/v1/", "https://h", "/api/v1/x"),
        ("http://[::1]:8080", "http://[::1]:8080", "/api/v1/x"),
        ("http://h/box", "http://h/box", "/box/api/v1/x"),
        ("http://h/box/api/v1", "http://h/box", "/box/api/v1/x"),
    ],
)
def test_addresses(url, shown, path):
    found = address(url)
    assert (found.url, found.path("/x")) == (shown, path)
    assert found.path("//healthz") == path.removesuffix("/api/v1/x") + "/healthz"


def test_what_is_not_given_is_in_the_environment(monkeypatch):
    monkeypatch.setenv("NSBOX_URL", "http://from.example")
    monkeypatch.setenv("NSBOX_API_KEY", KEY)
    assert Client().url == "http://from.example"
    monkeypatch.delenv("NSBOX_API_KEY")
    with pytest.raises(ValueError, match="NSBOX_API_KEY is not set"):
        Client()


def test_an_admin_acts_for_a_user():
    with cutting(lambda _: document([])) as server:
        with Client(server.url, KEY, user="us_1") as nsbox:
            nsbox.list()
        assert server.seen[0].headers["nsbox-user"] == "us_1"
    for wrong in ("", "a b", "é", "a\r\nb"):
        with pytest.raises(ValueError):
            acting_for(wrong)


@pytest.mark.parametrize("name", ["", ".", "..", "..."])
def test_no_name_leads_elsewhere(name):
    with Client("http://127.0.0.1:1", KEY, retries=ONCE) as nsbox:
        with pytest.raises(ValueError, match="not the name"):
            nsbox.sandbox(name)
        for image in (name, f"a/{name}", f"{name}/a"):
            with pytest.raises(ValueError, match="not the name"):
                nsbox.images.get(image)


def test_names_are_one_part_of_a_path():
    with cutting(lambda _: document({})) as server, Client(server.url, KEY) as nsbox:
        for act in (
            lambda: nsbox.sandbox("a/../b?c").pause(),
            lambda: nsbox.images.remove("h:5000/a/b:1?x#y"),
        ):
            with pytest.raises(UnexpectedAnswer):
                act()
    assert [one.target for one in server.seen] == [
        "/api/v1/sandboxes/a%2F..%2Fb%3Fc/pause",
        "/api/v1/images/h:5000/a/b:1%3Fx%23y",
    ]


def test_a_command_that_failed_says_how():
    failed = document({**RESULT, "exitCode": 3, "stderr": "b2ggbm8K"})
    with cutting(lambda _: failed) as server, Client(server.url, KEY) as nsbox:
        result = nsbox.sandbox("sb_1").exec("x")
    with pytest.raises(CommandFailed, match=r"^the command exited with 3: oh no$") as told:
        result.check()
    assert told.value.result is result
    assert result._replace(exit_code=0).check().ok


# ---- events


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["stdout", "exit"]), st.text(max_size=20), st.none() | st.integers(0, 10**12)
        ),
        max_size=8,
    ),
    st.data(),
)
def test_events_come_out_the_same_however_they_are_cut(told, data):
    stream = b"".join(event(kind, {"t": text}, number) + b": comment\n\n" for kind, text, number in told)
    reader, found, rest = Events(), [], stream
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        found += reader.feed(rest[:size])
        rest = rest[size:]
    assert found == [Event(kind, {"t": text}, number) for kind, text, number in told]
