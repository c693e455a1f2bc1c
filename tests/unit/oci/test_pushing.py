"""The pushing half of the registry client against a registry that answers as a test has it."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

import pytest
import trio

from nsbox.oci import dialer as dialer_module
from nsbox.oci.challenge import Challenge
from nsbox.oci.credentials import Credentials
from nsbox.oci.digests import sha256
from nsbox.oci.manifests import OCI_MANIFEST
from nsbox.oci.pushing import Target
from nsbox.oci.registry_errors import (
    Denied,
    NotThere,
    Passing,
    Patience,
    RegistryError,
    TooLarge,
    Unfit,
    persistently,
)
from nsbox.oci.session import Endpoint
from nsbox.oci.tokens import Tokens
from tests.registries.sink import Sink, Taker, taking

QUICK = Patience(connect=10, silence=10, document=10, stored=10, backoff=0.01, longest_wait=0.1, tries=3)
BLOB = os.urandom(3 << 20)
DIGEST = sha256(BLOB)
#: What writes, and a part of its path.
WRITES = [("POST", "uploads"), ("PUT", "uploads"), ("PUT", "manifests")]


@pytest.fixture
def sink() -> Iterator[Sink]:
    with taking() as one:
        yield one


def target(sink: Sink, patience: Patience = QUICK, credentials: Credentials | None = None) -> Target:
    return Target(Endpoint(host=sink.host, plain=True, credentials=credentials), "a/b", patience)


async def pieces(data: bytes = BLOB) -> AsyncGenerator[bytes, None]:
    for begin in range(0, len(data), 65_536):
        yield data[begin : begin + 65_536]


async def send(to: Target, told: list[int] | None = None, data: bytes = BLOB) -> None:
    """As pushes do it: each try from the beginning."""

    async def once() -> None:
        async with aclosing(pieces(data)) as stream:
            heard = told if told is not None else []
            await to.send(DIGEST, len(BLOB), stream, heard.append)

    await persistently(to.patience, once)


# ---- what must work


async def test_a_blob_and_a_manifest(sink: Sink) -> None:
    told: list[int] = []
    async with target(sink) as to:
        assert not await to.has(DIGEST, len(BLOB))
        await send(to, told)
        assert await to.has(DIGEST, len(BLOB))
        await to.tag("1", b"{}", OCI_MANIFEST, sha256(b"{}"))
    assert sink.stored[f"/v2/a/b/blobs/{DIGEST}"] == BLOB
    assert sink.stored["/v2/a/b/manifests/1"] == b"{}"
    assert told[-1] == len(BLOB)
    assert told == sorted(told)


async def test_a_blob_of_another_size_is_not_it(sink: Sink) -> None:
    sink.stored[f"/v2/a/b/blobs/{DIGEST}"] = BLOB[1:]
    async with target(sink) as to:
        assert not await to.has(DIGEST, len(BLOB))


async def test_a_mount(sink: Sink) -> None:
    sink.stored[f"/v2/other/blobs/{DIGEST}"] = BLOB
    async with target(sink) as to:
        assert await to.mount(DIGEST, "other")
    assert sink.stored[f"/v2/a/b/blobs/{DIGEST}"] == BLOB
    assert sink.count("PUT") == 0


@pytest.mark.parametrize("status", [202, 401, 403, 404, 405])
async def test_a_mount_that_cannot_be(sink: Sink, status: int) -> None:
    """It is no error, and an upload that was begun instead is given up."""
    if status != 202:
        sink.lies("POST", "mount=", lambda taker: taker.reply(status))
    async with target(sink) as to:
        assert not await to.mount(DIGEST, "other")
    assert sink.count("DELETE") == (1 if status == 202 else 0)


# ---- what passes


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize(
    ("method", "part"), [("HEAD", "blobs"), ("POST", "uploads"), ("PUT", "uploads"), ("PUT", "manifests")]
)
async def test_a_failure_that_passes(sink: Sink, status: int, method: str, part: str) -> None:
    def fail(taker: Taker) -> None:
        taker.body()
        taker.reply(status, headers={"Retry-After": "0"})

    sink.lies(method, part, fail, 1)
    async with target(sink) as to:
        await to.has(DIGEST, len(BLOB))
        await send(to)
        await to.tag("1", b"{}", OCI_MANIFEST, sha256(b"{}"))
    assert sink.stored[f"/v2/a/b/blobs/{DIGEST}"] == BLOB
    assert "/v2/a/b/manifests/1" in sink.stored


async def test_a_connection_that_is_lost_in_the_middle(sink: Sink) -> None:
    """The blob is sent again, from its beginning."""

    def drop(taker: Taker) -> None:
        taker.body(len(BLOB) // 2)
        taker.hang_up()

    sink.lies("PUT", "uploads", drop, 2)
    told: list[int] = []
    async with target(sink) as to:
        await send(to, told)
    assert sink.stored[f"/v2/a/b/blobs/{DIGEST}"] == BLOB
    assert sink.count("PUT") == 3
    assert told != sorted(told), "it began anew"


async def test_one_that_fails_for_ever(sink: Sink) -> None:
    def fail(taker: Taker) -> None:
        taker.body()
        taker.reply(500)

    sink.lies("PUT", "uploads", fail)
    async with target(sink) as to:
        with pytest.raises(Passing, match="answers 500"):
            await send(to)
    assert sink.count("PUT") == QUICK.tries
    assert sink.count("DELETE") == QUICK.tries, "each upload that was begun is given up"


# ---- whose fault


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, Denied, "strangers"),
        (403, Denied, "strangers"),
        (404, NotThere, "no repository a/b"),
        (413, TooLarge, "does not take"),
        (400, Unfit, "answers 400"),
        (301, Unfit, "redirects"),
    ],
)
@pytest.mark.parametrize(("method", "part"), WRITES)
async def test_a_refusal(
    sink: Sink, status: int, kind: type[RegistryError], words: str, method: str, part: str
) -> None:
    def refuse(taker: Taker) -> None:
        taker.body()
        challenge = {"WWW-Authenticate": "Negotiate"} if status == 401 else {"Location": "/elsewhere"}
        taker.reply(status, b'{"errors":[{"code":"DENIED","message":"\\u001b[31mno"}]}', challenge)

    sink.lies(method, part, refuse)
    async with target(sink) as to:
        with pytest.raises(kind, match="login of a kind" if status == 401 else words) as caught:
            await send(to)
            await to.tag("1", b"{}", OCI_MANIFEST, sha256(b"{}"))
    assert "\x1b" not in str(caught.value)
    if status in (403, 404, 413, 400):
        assert "(DENIED)" in str(caught.value)
    assert "/v2/a/b/manifests/1" not in sink.stored
    assert sink.count(method, part) == 1, "it is not tried again"


async def test_too_large_told_before_all_is_sent(sink: Sink) -> None:
    """As nginx does it: the answer comes at once, and the connection is closed."""

    def refuse(taker: Taker) -> None:
        taker.reply(413)
        taker.close_connection = True

    sink.lies("PUT", "uploads", refuse)
    async with target(sink) as to:
        with pytest.raises((TooLarge, Passing)):
            await send(to)
    assert not sink.stored


async def test_something_else_than_the_digest(sink: Sink) -> None:
    async with target(sink) as to:
        with pytest.raises(Unfit, match="DIGEST_INVALID"):
            await send(to, data=BLOB[:-1] + b"x" if BLOB[-1:] != b"x" else BLOB[:-1] + b"y")


async def test_a_registry_that_got_something_else(sink: Sink) -> None:
    def lie(taker: Taker) -> None:
        taker.body()
        taker.reply(201, headers={"Docker-Content-Digest": sha256(b"other")})

    sink.lies("PUT", "", lie)
    async with target(sink) as to:
        with pytest.raises(Unfit, match="something else"):
            await send(to)
        with pytest.raises(Unfit, match="something else"):
            await to.tag("1", b"{}", OCI_MANIFEST, sha256(b"{}"))


# ---- hostile


def _endless(taker: Taker) -> None:
    taker.body()
    taker.reply(201, length=1 << 40)
    while not taker.sink.stopping.is_set():
        taker.wfile.write(bytes(65_536))


@pytest.mark.parametrize(("method", "part"), WRITES)
async def test_an_endless_answer(sink: Sink, method: str, part: str) -> None:
    sink.lies(method, part, _endless)
    async with target(sink) as to:
        with pytest.raises(Unfit, match="more than 65536 bytes"), trio.fail_after(60):
            await send(to)
            await to.tag("1", b"{}", OCI_MANIFEST, sha256(b"{}"))


@pytest.mark.parametrize("where", ["file:///etc/passwd", "http://[", "", "x" * 9000, "gopher://a/"])
async def test_a_place_that_is_none(sink: Sink, where: str) -> None:
    sink.lies("POST", "uploads", lambda taker: taker.reply(202, headers={"Location": where}))
    async with target(sink) as to:
        with pytest.raises(Unfit):
            await send(to)
    assert sink.count("PUT") == 0


@pytest.mark.parametrize("host", ["127.0.0.2", "169.254.169.254", "[::1]", "10.1.2.3"])
async def test_a_place_that_is_private(sink: Sink, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry in the internet may not have a layer sent to a host near the daemon. The tests have no
    public address: of this host's, one counts as public."""
    monkeypatch.setattr(dialer_module, "is_public", lambda address: address == "127.0.0.1")
    there = f"http://{host}:{sink.host.rpartition(':')[2]}/v2/a/b/blobs/uploads/1"
    sink.lies("POST", "uploads", lambda taker: taker.reply(202, headers={"Location": there}))
    async with target(sink) as to:
        with pytest.raises(Unfit, match="not a public address"), trio.fail_after(60):
            await send(to)
    assert sink.count("PUT") == 0


async def test_a_place_elsewhere_gets_no_password(sink: Sink) -> None:
    with taking() as other:

        def want(taker: Taker) -> None:
            if taker.headers.get("authorization"):
                taker.honest()
            else:
                taker.reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})

        there = f"http://{other.host}/v2/a/b/blobs/uploads/1?x=1"
        sink.lies("POST", "uploads", lambda taker: taker.reply(202, headers={"Location": there}), 1)
        sink.lies("HEAD", "blobs", want)
        async with target(sink, credentials=Credentials("ann", "pw")) as to:
            await to.has(DIGEST, len(BLOB))
            assert sink.asked[-1].authorization is not None
            await send(to)
        assert [one.authorization for one in other.asked] == [None]
        assert other.stored[f"/v2/a/b/blobs/{DIGEST}"] == BLOB


def _wait(taker: Taker) -> None:
    taker.sink.stopping.wait(60)


async def test_one_that_takes_nothing(sink: Sink) -> None:
    """Its window fills, and it is given up."""
    sink.lies("PUT", "uploads", _wait)
    quick = Patience(connect=10, silence=0.5, document=10, stored=1, backoff=0.01, longest_wait=0.1, tries=2)
    big = os.urandom(64 << 10) * 512
    async with target(sink, quick) as to, aclosing(pieces(big)) as stream:
        with pytest.raises(Passing, match="does not answer in time"), trio.fail_after(60):
            await to.send(DIGEST, len(big), stream, lambda _: None)


# ---- tokens


async def _asked(told: str, insist: bool) -> str:
    seen: list[str] = []

    async def ask(method: str, url: str, headers: dict[str, str], body: bytes | None) -> tuple[int, bytes]:
        seen.append(url)
        return 200, b'{"token":"t"}'

    tokens = Tokens(None, "repository:a:pull,push", ask, insist=insist)
    parameters = {"realm": "https://auth/", **({"scope": told} if told else {})}
    await tokens.renew(Challenge("bearer", parameters), None)
    return seen[0].partition("scope=")[2]


async def test_scopes() -> None:
    own = "repository%3Aa%3Apull%2Cpush"
    assert await _asked("", False) == await _asked("", True) == own
    assert await _asked("repository:a:pull", False) == "repository%3Aa%3Apull"
    assert await _asked("repository:a:pull", True) == f"{own}&scope=repository%3Aa%3Apull"
    both = await _asked("repository:a:pull,push repository:b:pull", True)
    assert both == f"{own}&scope=repository%3Ab%3Apull"


async def test_a_token_that_ends_in_the_middle(sink: Sink) -> None:
    """A long upload outlives its token: with a new one it is sent again."""
    given: list[str] = []

    def token(taker: Taker) -> None:
        given.append(f"t{len(given)}")
        taker.reply(200, b'{"token":"%s"}' % given[-1].encode())

    def want(taker: Taker) -> None:
        taker.body()
        realm = f'Bearer realm="http://{sink.host}/token",scope="repository:a/b:pull"'
        taker.reply(401, headers={"WWW-Authenticate": realm})

    sink.lies("GET", "/token", token)
    sink.lies("HEAD", "blobs", want, 1)
    sink.lies("PUT", "uploads", want, 1)
    async with target(sink) as to:
        assert not await to.has(DIGEST, len(BLOB))
        await send(to)
    assert given == ["t0", "t1"]
    assert sink.asked[-1].authorization == "Bearer t1"
    assert all("pull%2Cpush" in one.path for one in sink.asked if "/token" in one.path)
    assert sink.stored[f"/v2/a/b/blobs/{DIGEST}"] == BLOB
