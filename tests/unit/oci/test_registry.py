"""The registry client against a registry that answers as a test has it, over real connections."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from nsbox.oci import dialer as dialer_module
from nsbox.oci.blobs import Blobs
from nsbox.oci.credentials import Credentials
from nsbox.oci.dialer import is_loopback, is_public
from nsbox.oci.fetch import fetch
from nsbox.oci.manifests import BadImage, Platform
from nsbox.oci.reference import parse
from nsbox.oci.registry import Registry
from nsbox.oci.registry_errors import Denied, NotThere, Passing, Patience, RegistryError, Unfit
from nsbox.oci.session import Endpoint
from nsbox.oci.sources import RegistrySource
from tests.registries.fake import FakeRegistry, Handler, serving
from tests.registries.images import DOCKER_MANIFEST, OCI_MANIFEST, image, index, layer, sha256

AMD64 = Platform("linux", "amd64")
QUICK = Patience(
    connect=5, silence=5, document=5, stretch=0.5, stretch_bytes=1000, backoff=0.01, longest_wait=0.2, tries=3
)
LAYER = layer({"a": b"x" * 100_000})
IMAGE = image([LAYER], Env=["A=1"])


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with serving() as one:
        yield one


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(str(tmp_path))


def source(registry: FakeRegistry, name: str = "a", **more: Any) -> RegistrySource:
    endpoint = Endpoint(host=registry.host, plain=True, **more)
    reference = parse(f"{registry.host}/{name}")
    return RegistrySource(
        reference, [(endpoint, reference.repository)], AMD64, most_bytes=1 << 30, patience=QUICK
    )


async def pulled(registry: FakeRegistry, blobs: Blobs, name: str = "a", **more: Any) -> bytes:
    """The first layer's blob."""
    async with source(registry, name, **more) as one:
        found = await one.find()
        await one.bring(found.parts[0], blobs, lambda _: None)
    return Path(blobs.path(found.parts[0].digest)).read_bytes()


def blob_path(made: Any = IMAGE) -> str:
    return f"/v2/a/blobs/{made.layers[0].digest}"


# ---- what must work


@pytest.mark.parametrize("docker", [False, True])
@pytest.mark.parametrize("packed", ["gzip", "zstd", "none"])
async def test_a_pull(registry: FakeRegistry, blobs: Blobs, docker: bool, packed: str) -> None:
    made = image([layer({"a": b"1"}, packed)], docker=docker)
    registry.push("a", made)
    assert await pulled(registry, blobs) == made.layers[0].blob


async def test_by_digest(registry: FakeRegistry, blobs: Blobs) -> None:
    registry.push("a", IMAGE)
    async with source(registry, f"a@{IMAGE.digest}") as one:
        assert (await one.find()).digest == IMAGE.digest


@pytest.mark.parametrize("docker", [False, True])
async def test_the_manifest_for_this_platform(registry: FakeRegistry, docker: bool) -> None:
    other = image([layer({"b": b"2"})], architecture="arm64", docker=docker)
    registry.push("a", IMAGE, "amd")
    registry.push("a", other, "arm")
    data, kind = index(
        [
            other.descriptor(platform={"os": "linux", "architecture": "arm64", "variant": "v8"}),
            IMAGE.descriptor(platform={"os": "unknown", "architecture": "unknown"}),
            IMAGE.descriptor(platform={"os": "linux", "architecture": "amd64"}),
        ],
        docker,
    )
    registry.documents["/v2/a/manifests/latest"] = data, kind
    async with source(registry) as one:
        found = await one.find()
    assert (found.digest, found.index) == (IMAGE.digest, sha256(data))
    assert found.config.env == {"A": "1"}


async def test_an_image_for_other_platforms_only(registry: FakeRegistry) -> None:
    other = image([layer({"b": b"2"})], architecture="arm64")
    data, kind = index([other.descriptor(platform={"os": "linux", "architecture": "arm64"})])
    registry.documents["/v2/a/manifests/latest"] = data, kind
    async with source(registry) as one:
        with pytest.raises(BadImage, match="linux/arm64"):
            await one.find()


# ---- broken connections, busy registries


async def test_a_broken_download_goes_on(registry: FakeRegistry, blobs: Blobs) -> None:
    blob = IMAGE.layers[0].blob
    registry.push("a", IMAGE)
    cut = len(blob) // 2

    def once(handler: Handler) -> None:
        registry.lies.clear()
        handler.reply(200, blob[:cut], length=len(blob))
        handler.hang_up()

    registry.lies[blob_path()] = once
    assert await pulled(registry, blobs) == blob
    assert [one.range for one in registry.asked if one.path == blob_path()] == [None, f"bytes={cut}-"]


async def test_what_an_earlier_pull_left_is_used(registry: FakeRegistry, blobs: Blobs) -> None:
    blob = IMAGE.layers[0].blob
    registry.push("a", IMAGE)
    Path(blobs.path(sha256(blob)) + ".part").write_bytes(blob[:100])
    assert await pulled(registry, blobs) == blob
    assert registry.asked[-1].range == "bytes=100-"


async def test_a_wrong_half_is_thrown_away(registry: FakeRegistry, blobs: Blobs) -> None:
    """As a power cut may leave it: the right length, and zeros."""
    blob = IMAGE.layers[0].blob
    registry.push("a", IMAGE)
    Path(blobs.path(sha256(blob)) + ".part").write_bytes(bytes(100))
    assert await pulled(registry, blobs) == blob
    assert [one.range for one in registry.asked if one.path == blob_path()] == ["bytes=100-", None]


async def test_a_registry_without_ranges(registry: FakeRegistry, blobs: Blobs) -> None:
    blob = IMAGE.layers[0].blob
    registry.push("a", IMAGE)
    registry.lies[blob_path()] = lambda handler: handler.reply(200, blob)
    Path(blobs.path(sha256(blob)) + ".part").write_bytes(blob[:100])
    assert await pulled(registry, blobs) == blob


async def test_the_wrong_range(registry: FakeRegistry, blobs: Blobs) -> None:
    blob = IMAGE.layers[0].blob
    registry.push("a", IMAGE)
    registry.lies[blob_path()] = lambda handler: handler.reply(
        206, blob, headers={"Content-Range": f"bytes 0-{len(blob) - 1}/{len(blob)}"}
    )
    Path(blobs.path(sha256(blob)) + ".part").write_bytes(blob[:100])
    with pytest.raises(Unfit, match="another part"):
        await pulled(registry, blobs)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_busy_registry_is_asked_again(registry: FakeRegistry, blobs: Blobs, status: int) -> None:
    registry.push("a", IMAGE)
    left = {"/v2/a/manifests/latest": 2, blob_path(): 2}

    def busy(handler: Handler) -> None:
        if left.get(handler.path, 0) > 0:
            left[handler.path] -= 1
            handler.reply(status, headers={"Retry-After": "0"})
        else:
            handler.honest()

    registry.lies["*"] = busy
    assert await pulled(registry, blobs) == IMAGE.layers[0].blob
    assert set(left.values()) == {0}


async def test_a_registry_that_stays_busy(registry: FakeRegistry) -> None:
    registry.lies["*"] = lambda handler: handler.reply(503)
    async with source(registry) as one:
        with pytest.raises(Passing, match="503"):
            await one.find()
    assert len(registry.asked) == QUICK.tries


async def test_retry_after_is_heeded_within_bounds(registry: FakeRegistry) -> None:
    def busy(handler: Handler) -> None:
        registry.lies.clear()
        handler.reply(429, headers={"Retry-After": "86400"})

    registry.push("a", IMAGE)
    registry.lies["*"] = busy
    begun = trio.current_time()
    async with source(registry) as one:
        await one.find()
    assert QUICK.longest_wait <= trio.current_time() - begun < 10


async def test_nobody_listens() -> None:
    reference = parse("127.0.0.1:1/a")
    endpoints = [(Endpoint(host="127.0.0.1:1", plain=True), "a")]
    async with RegistrySource(reference, endpoints, AMD64, most_bytes=1, patience=QUICK) as one:
        with pytest.raises(RegistryError, match=r"127\.0\.0\.1:1"):
            await one.find()


async def test_what_is_not_there(registry: FakeRegistry) -> None:
    async with source(registry) as one:
        with pytest.raises(NotThere):
            await one.find()
    assert len(registry.asked) == 1


# ---- mirrors


async def test_a_mirror_comes_first_and_fails_softly(registry: FakeRegistry, blobs: Blobs) -> None:
    blob = IMAGE.layers[0].blob
    with serving() as mirror:
        registry.push("a", IMAGE)
        mirror.push("hub/a", IMAGE)
        endpoints = [
            (Endpoint(host=mirror.host, plain=True), "hub/a"),
            (Endpoint(host=registry.host, plain=True), "a"),
        ]

        async def pull() -> None:
            reference = parse(f"{registry.host}/a")
            async with RegistrySource(reference, endpoints, AMD64, most_bytes=1 << 30, patience=QUICK) as one:
                found = await one.find()
                await one.bring(found.parts[0], blobs, lambda _: None)
            assert Path(blobs.path(sha256(blob))).read_bytes() == blob
            blobs.remove(sha256(blob))

        await pull()
        assert not registry.asked
        assert mirror.asked
        mirror.lies[f"/v2/hub/a/blobs/{sha256(blob)}"] = lambda handler: handler.reply(200, b"?" * len(blob))
        await pull()  # a blob that is wrong there is taken here
        assert registry.paths("/blobs/") == [f"/v2/a/blobs/{sha256(blob)}"]
        mirror.lies["*"] = lambda handler: handler.reply(404)
        await pull()
        assert registry.paths("/manifests/")


# ---- who asks


def tokens(registry: FakeRegistry, wanted: str = "Basic " + base64.b64encode(b"ann:pw").decode()) -> None:
    """As Docker's registry has it: 401 with the address of a token service, which wants the password."""

    def ask(handler: Handler) -> None:
        if handler.path.startswith("/token"):
            if handler.headers.get("authorization") != wanted:
                handler.reply(401)
            else:
                handler.reply(200, json.dumps({"token": "t0k3n"}).encode(), "application/json")
        elif handler.headers.get("authorization") == "Bearer t0k3n":
            handler.honest()
        else:
            challenge = f'Bearer realm="http://{registry.host}/token",service="s",scope="repository:a:pull"'
            handler.reply(401, headers={"WWW-Authenticate": challenge})

    registry.lies["*"] = ask


async def test_token_auth(registry: FakeRegistry, blobs: Blobs) -> None:
    registry.push("a", IMAGE)
    tokens(registry)
    login = Credentials("ann", "pw")
    assert await pulled(registry, blobs, credentials=login) == IMAGE.layers[0].blob
    assert len(registry.paths("/token")) == 1, "one token serves for all of a pull"
    assert "service=s" in registry.paths("/token")[0]
    assert "scope=repository%3Aa%3Apull" in registry.paths("/token")[0]


@pytest.mark.parametrize("login", [None, Credentials("ann", "wrong")])
async def test_wrong_credentials(registry: FakeRegistry, login: Credentials | None) -> None:
    registry.push("a", IMAGE)
    tokens(registry)
    async with source(registry, credentials=login) as one:
        with pytest.raises(Denied):
            await one.find()


async def test_an_identity_token(registry: FakeRegistry) -> None:
    registry.push("a", IMAGE)
    forms = []

    def ask(handler: Handler) -> None:
        if handler.path.startswith("/token"):
            forms.append(handler.rfile.read(int(handler.headers["content-length"])).decode())
            handler.reply(200, b'{"access_token": "t"}', "application/json")
        elif handler.headers.get("authorization") == "Bearer t":
            handler.honest()
        else:
            handler.reply(401, headers={"WWW-Authenticate": f'Bearer realm="http://{registry.host}/token"'})

    registry.lies["*"] = ask
    async with source(registry, credentials=Credentials("ann", "", "1d3nt1ty")) as one:
        await one.find()
    assert "grant_type=refresh_token" in forms[0]
    assert "refresh_token=1d3nt1ty" in forms[0]


async def test_basic_auth(registry: FakeRegistry, blobs: Blobs) -> None:
    registry.push("a", IMAGE)
    login = Credentials("ann", "pw")

    def ask(handler: Handler) -> None:
        if handler.headers.get("authorization") == login.basic:
            handler.honest()
        else:
            handler.reply(401, headers={"WWW-Authenticate": 'Basic realm="r"'})

    registry.lies["*"] = ask
    assert await pulled(registry, blobs, credentials=login) == IMAGE.layers[0].blob
    async with source(registry) as one:
        with pytest.raises(Denied):
            await one.find()


async def test_credentials_stay_with_their_host(registry: FakeRegistry, blobs: Blobs) -> None:
    """A registry that stores its blobs elsewhere: neither token nor password goes there."""
    registry.push("a", IMAGE)
    tokens(registry)
    honest = registry.lies["*"]
    with serving() as store:
        store.documents["/store"] = IMAGE.layers[0].blob, "application/octet-stream"

        def ask(handler: Handler) -> None:
            if (
                "/blobs/" in handler.path
                and handler.headers.get("authorization")
                and handler.path == blob_path()
            ):
                handler.redirect(f"http://{store.host}/store?signature=s3cret")
            else:
                honest(handler)

        registry.lies["*"] = ask
        await pulled(registry, blobs, credentials=Credentials("ann", "pw"))
        assert [one.authorization for one in store.asked] == [None]


async def test_no_secret_in_the_log(
    registry: FakeRegistry, blobs: Blobs, caplog: pytest.LogCaptureFixture
) -> None:
    """At the level that the daemon has httpx2 log at."""
    registry.push("a", IMAGE)
    tokens(registry)
    with caplog.at_level(logging.INFO), caplog.at_level(logging.WARNING, "httpx2"):
        await pulled(registry, blobs, credentials=Credentials("ann", "pw"))
    assert "t0k3n" not in caplog.text
    assert "pw" not in caplog.text
    assert "pw" not in repr(Credentials("ann", "pw"))
    assert "pw" not in repr(Endpoint(host="h", credentials=Credentials("ann", "pw")))


# ---- lies

Lying = Callable[[FakeRegistry, Handler], None]
BLOB = IMAGE.layers[0].blob


def _drip(registry: FakeRegistry, handler: Handler) -> None:
    handler.reply(200, b"", length=len(BLOB))
    for number in range(len(BLOB)):
        handler.wfile.write(BLOB[number : number + 1])
        handler.wfile.flush()
        if registry.stopping.wait(0.05):
            return


def _endless(registry: FakeRegistry, handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    block = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    while not registry.stopping.is_set():
        handler.wfile.write(block)


BLOB_LIES: dict[str, tuple[Lying, str]] = {
    "other bytes": (lambda _, h: h.reply(200, b"?" * len(BLOB)), "not its own"),
    "too many": (lambda _, h: h.reply(200, BLOB + b"x"), "more than"),
    "endless": (_endless, "more than"),
    "nothing": (lambda _, h: h.reply(200, b""), "nothing"),
    "dripping": (_drip, "too slowly"),
    "to a file": (lambda _, h: h.redirect("file:///etc/passwd"), "neither http nor https"),
    "to gopher": (lambda _, h: h.redirect("gopher://x/"), "neither http nor https"),
    "to nowhere": (lambda _, h: h.redirect("http://"), "more than 5 times"),
    "to garbage": (lambda _, h: h.redirect("http://[::1"), "no address"),
    "in circles": (lambda _, h: h.redirect(h.path), "more than 5 times"),
    "forbidden": (lambda _, h: h.reply(403), "does not give"),
    "gone": (lambda _, h: h.reply(404), "does not have"),
    "teapot": (lambda _, h: h.reply(418), "418"),
}


@pytest.mark.parametrize("name", BLOB_LIES)
async def test_lies_about_a_blob(registry: FakeRegistry, blobs: Blobs, name: str) -> None:
    lie, sentence = BLOB_LIES[name]
    registry.push("a", IMAGE)
    registry.lies[blob_path()] = lambda handler: lie(registry, handler)
    with trio.fail_after(20), pytest.raises(RegistryError, match=sentence):
        await pulled(registry, blobs)
    assert not blobs.has(sha256(BLOB), len(BLOB))
    left = [size for _, size, _ in blobs.entries()]
    assert all(size < len(BLOB) for size in left), "nothing wrong is kept"
    if name in ("other bytes", "too many", "endless"):
        assert left == [], "nor any of what was seen to be wrong"
    registry.lies.clear()
    assert await pulled(registry, blobs) == BLOB, "the next pull succeeds"


async def test_a_wrong_size(registry: FakeRegistry, blobs: Blobs) -> None:
    """The manifest says more than there is, and then less; the bytes have the right digest."""
    for change, sentence in ((1, "nothing"), (-1, "more than")):
        document = json.loads(IMAGE.manifest)
        document["layers"][0]["size"] += change
        registry.push("a", IMAGE)
        registry.documents["/v2/a/manifests/latest"] = json.dumps(document).encode(), OCI_MANIFEST
        with pytest.raises(RegistryError, match=sentence):
            await pulled(registry, blobs)
        blobs.remove(sha256(BLOB))


MANIFEST_LIES: dict[str, tuple[Lying, str]] = {
    "10 MB": (lambda _, h: h.reply(200, b" " * 10_000_000, OCI_MANIFEST), "more than 4194304"),
    "endless": (_endless, "more than 4194304"),
    "a web page": (lambda _, h: h.reply(200, b"<html>", "text/html"), "text/html"),
    "no JSON": (lambda _, h: h.reply(200, b"<html>", OCI_MANIFEST), "not what it should be"),
    "deep JSON": (lambda _, h: h.reply(200, b"[" * 100_000, OCI_MANIFEST), "not what it should be"),
    "another type": (lambda _, h: h.reply(200, IMAGE.manifest, DOCKER_MANIFEST), "says it is"),
    "a list": (lambda _, h: h.reply(200, IMAGE.manifest, index([])[1]), "says it is"),
    "schema 1": (
        lambda _, h: h.reply(200, b'{"schemaVersion":1,"fsLayers":[]}', OCI_MANIFEST),
        "schema 1",
    ),
    "another digest": (
        lambda _, h: h.reply(200, IMAGE.manifest, OCI_MANIFEST, {"Docker-Content-Digest": sha256(b"")}),
        "something else",
    ),
}


@pytest.mark.parametrize("name", MANIFEST_LIES)
async def test_lies_about_a_manifest(registry: FakeRegistry, name: str) -> None:
    lie, sentence = MANIFEST_LIES[name]
    registry.push("a", IMAGE)
    registry.lies["/v2/a/manifests/latest"] = lambda handler: lie(registry, handler)
    async with source(registry) as one:
        with trio.fail_after(20), pytest.raises((RegistryError, BadImage), match=sentence):
            await one.find()


async def test_another_manifest_than_the_digest_says(registry: FakeRegistry) -> None:
    other = image([layer({"b": b"2"})])
    registry.documents[f"/v2/a/manifests/{IMAGE.digest}"] = other.manifest, other.media_type
    async with source(registry, f"a@{IMAGE.digest}") as one:
        with pytest.raises(Unfit, match="something else"):
            await one.find()


async def test_another_config_than_the_manifest_says(registry: FakeRegistry) -> None:
    registry.push("a", IMAGE)
    digest = json.loads(IMAGE.manifest)["config"]["digest"]
    for data in (IMAGE.config.replace(b"A=1", b"A=2"), IMAGE.config + b" "):
        registry.documents[f"/v2/a/blobs/{digest}"] = data, "application/json"
        async with source(registry) as one:
            with pytest.raises(Unfit, match=digest):
                await one.find()


async def test_another_size_than_the_list_says(registry: FakeRegistry) -> None:
    """With the right digest: what the list says of it is wrong all the same."""
    registry.push("a", IMAGE, "real")
    for change in (1, -1):
        entry = IMAGE.descriptor(platform={"os": "linux", "architecture": "amd64"})
        data, kind = index([{**entry, "size": entry["size"] + change}])
        registry.documents["/v2/a/manifests/latest"] = data, kind
        async with source(registry) as one:
            with pytest.raises(Unfit, match=f"sent {entry['size']} bytes"):
                await one.find()


async def test_silence(registry: FakeRegistry) -> None:
    def say_nothing(handler: Handler) -> None:
        registry.stopping.wait(30)

    registry.lies["*"] = say_nothing
    endpoint = Endpoint(host=registry.host, plain=True)
    patience = Patience(silence=0.3, document=5, tries=2, backoff=0.01)
    async with Registry(endpoint, "a", patience) as one:
        begun = time.monotonic()
        with pytest.raises(Passing, match="in time"):
            await one.manifest("latest")
        assert time.monotonic() - begun < 10
        registry.stopping.set()


async def test_a_document_that_drips(registry: FakeRegistry) -> None:
    def drip(handler: Handler) -> None:
        handler.reply(200, b"", OCI_MANIFEST, length=1000)
        while not registry.stopping.wait(0.05):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    registry.lies["*"] = drip
    endpoint = Endpoint(host=registry.host, plain=True)
    async with Registry(endpoint, "a", Patience(silence=5, document=0.5, tries=2)) as one:
        with pytest.raises(Unfit, match="no whole answer"):
            await one.manifest("latest")
        registry.stopping.set()


@pytest.mark.parametrize("realm", ["file:///etc/passwd", "", "nowhere", "http://", "ftp://x/", "http://[::1"])
async def test_a_token_service_that_is_no_address(registry: FakeRegistry, realm: str) -> None:
    registry.lies["*"] = lambda handler: handler.reply(
        401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"'}
    )
    async with source(registry) as one:
        with pytest.raises(RegistryError):
            await one.find()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"x",
        b"{}",
        b"[]",
        b'{"token": 5}',
        b'{"token": "a\\r\\nX: y"}',
        b'{"token": "a b"}',
        '{"token": "ü"}'.encode(),
        b'{"token": "' + b"x" * 100_000 + b'"}',
        b"x" * 2_000_000,
    ],
)
async def test_a_token_that_is_none(registry: FakeRegistry, answer: bytes) -> None:
    def ask(handler: Handler) -> None:
        if handler.path.startswith("/token"):
            handler.reply(200, answer)
        else:
            handler.reply(401, headers={"WWW-Authenticate": f'Bearer realm="http://{registry.host}/token"'})

    registry.lies["*"] = ask
    async with source(registry) as one:
        with pytest.raises(Unfit):
            await one.find()


# ---- private places


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b::808:808", True),
        ("2002:7f00:1::", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1", True),
        ("127.9.9.9:80", True),
        ("[::1]:5000", True),
        ("[::1]", True),
        ("localhost.evil.example", False),
        ("10.0.0.1:5000", False),
        ("example.com", False),
        ("[fe80::1]:5000", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.fixture
def seen_as_public(registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests have no public address: of this host's, one counts as public."""
    monkeypatch.setattr(dialer_module, "is_public", lambda address: address == "127.0.0.1")


@pytest.mark.usefixtures("seen_as_public")
@pytest.mark.parametrize("host", ["127.0.0.2", "169.254.169.254", "[::1]", "10.1.2.3"])
@pytest.mark.parametrize("through", ["redirect", "realm"])
async def test_a_public_registry_leads_to_no_private_place(
    registry: FakeRegistry, blobs: Blobs, host: str, through: str
) -> None:
    registry.push("a", IMAGE)
    port = registry.host.partition(":")[2]
    if through == "redirect":
        registry.lies[blob_path()] = lambda handler: handler.redirect(f"http://{host}:{port}{blob_path()}")
    else:
        challenge = {"WWW-Authenticate": f'Bearer realm="http://{host}:{port}/token"'}
        registry.lies["/v2/a/manifests/latest"] = lambda handler: handler.reply(401, headers=challenge)
    with trio.fail_after(20), pytest.raises(Unfit, match="not a public address"):
        await pulled(registry, blobs)
    assert not registry.paths("token")


@pytest.mark.usefixtures("seen_as_public")
async def test_that_bites(registry: FakeRegistry, blobs: Blobs) -> None:
    """Allowed by a setting, the same redirect is followed."""
    registry.push("a", IMAGE)
    port = registry.host.partition(":")[2]

    def lead(handler: Handler) -> None:
        if handler.headers["host"].startswith("127.0.0.2"):
            handler.honest()
        else:
            handler.redirect(f"http://127.0.0.2:{port}{blob_path()}")

    registry.lies[blob_path()] = lead
    registry._server.server_address  # noqa: B018 - 127.0.0.2 does not reach a socket bound to 127.0.0.1
    with pytest.raises(RegistryError) as caught:
        await pulled(registry, blobs, private=True)
    assert "public" not in str(caught.value)


async def test_a_private_registry_may(registry: FakeRegistry, blobs: Blobs) -> None:
    registry.push("a", IMAGE)
    with serving() as store:
        store.documents["/x"] = BLOB, "application/octet-stream"
        registry.lies[blob_path()] = lambda handler: handler.redirect(f"http://{store.host}/x")
        assert await pulled(registry, blobs) == BLOB


def test_no_tls_is_for_few() -> None:
    """An https registry may not lead to plain http, but to this host's loopback or one named insecure."""
    endpoint = Endpoint(host="registry.example", plain_hosts=frozenset({"plain.example:80"}))
    registry = Registry(endpoint, "a", QUICK)
    registry.check_url("https://elsewhere.example/x")
    registry.check_url("http://plain.example:80/x")
    for url in ("http://elsewhere.example/x", "http://plain.example:81/x", "http://registry.example/x"):
        with pytest.raises(Unfit, match="without TLS"):
            registry.check_url(url)


async def test_fetch_tells_how_far_it_is(registry: FakeRegistry, blobs: Blobs) -> None:
    registry.push("a", IMAGE)
    told: list[int] = []
    async with Registry(Endpoint(host=registry.host, plain=True), "a", QUICK) as one:
        await fetch(one, blobs, sha256(BLOB), len(BLOB), told.append)
    assert told[0] == 0
    assert told[-1] == len(BLOB)
    assert told == sorted(told)
