"""Images and snapshots are pushed to Debian's own registry, removed here, and come back as they were."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio

from nsbox.client import AsyncClient, Client, NotFound
from tests.conftest import new_key
from tests.e2e.client import BASE, Answer, Api, Sandbox
from tests.e2e.daemon import Daemon, descendants, wait_until
from tests.e2e.sse import Stream
from tests.e2e.test_sandboxes import check_problem
from tests.registries import tools
from tests.registries.images import image, layer, layout_tar
from tests.registries.sink import Lie, Sink, Taker, taking
from tests.registries.token_service import TokenService, token_service
from tests.registries.tools import PASSWORD, DebianRegistry

OCTETS = {"Content-Type": "application/octet-stream"}


class Place(NamedTuple):
    """Registries, and the daemon that has been told of them."""

    daemon: Daemon
    open: DebianRegistry  # to everybody
    login: DebianRegistry  # by name and password
    tokens: DebianRegistry
    service: TokenService
    source: str  # an image, as skopeo names it


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="nsbox-push-", dir="/var/tmp") as path:
        os.chmod(path, 0o755)
        yield Path(path)


@pytest.fixture(scope="module")
def place(folder: Path) -> Iterator[Place]:
    tools.need("/bin/busybox", "docker-registry", "skopeo", "openssl")
    program = tools.busybox()
    parts = [
        layer({"bin/busybox": program, "bin/sh": "busybox", "gone": b"1", "etc/os-release": b"ID=alpine\n"}),
        layer({".wh.gone": b"", "srv/kept": os.urandom(200_000)}),
    ]
    (folder / "image").mkdir()
    made = image(parts, Env=["GREETING=hello"], WorkingDir="/srv", Cmd=["/bin/sh"], Labels={"a": "b"})
    source = tools.write_layout(folder / "image", made)
    (folder / "password").write_text(f"{PASSWORD}\n")
    (folder / "password").chmod(0o644)
    with (
        token_service(folder) as service,
        tools.debian_registry() as anybody,
        tools.debian_registry(login=True) as login,
        tools.debian_registry(auth=service.auth) as tokens,
    ):
        known = {"username": "ann", "password_file": str(folder / "password")}
        registries = {login.host: known, tokens.host: known}
        settings = {
            "NSBOX_REGISTRIES": json.dumps(registries),
            "NSBOX_IMAGES_ALLOWED": "127.0.0.1:*/*,localhost:*/*",
        }
        daemon = Daemon(key=new_key(), settings=settings)
        try:
            yield Place(daemon.start(), anybody, login, tokens, service, source)
        finally:
            daemon.close()


def unseen(folder: Path, registry: DebianRegistry, name: str) -> str:
    """An image of which no other registry has seen a layer."""
    made = image([layer({"bin/busybox": tools.busybox(), "bin/sh": "busybox", "mark": os.urandom(9000)})])
    here = folder / name.replace("/", "-")
    here.mkdir()
    return registry.push(tools.write_layout(here, made), f"{name}:1")


@pytest.fixture
def api(place: Place) -> Iterator[Api]:
    with place.daemon.api() as client:
        yield client


def push(api: Api, name: str, to: str) -> Any:
    answer = api.request("POST", "/images/push", {"image": name, "to": to})
    assert answer.status == 200, answer
    assert answer.json["image"] == to
    return answer.json


def made_key(daemon: Daemon, user: str, *more: str) -> str:
    made = daemon.nsbox_on_state("keys", "create", user, "--user", user, *more)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def outcomes(pushed: Any) -> list[str]:
    return [one["outcome"] for one in pushed["layers"]]


def inspected(registry: DebianRegistry, name: str, *more: str) -> Any:
    login = ["--creds", f"ann:{PASSWORD}"] if registry._auth else []
    text = tools.run("skopeo", "inspect", "--tls-verify=false", *login, *more, f"docker://{name}")
    return json.loads(text)


def snapshot(sandbox: Sandbox) -> str:
    answer = sandbox.request("POST", "/snapshots", {"name": "pushed"})
    assert answer.status == 201, answer
    return str(answer.json["id"])


#: What is compared: contents, modes, owners and times of all that the image brought; of folders, which
#: sandboxes write in, all but the times.
LOOK = (
    "cd / && /bin/busybox sha256sum srv/kept etc/os-release bin/busybox;"
    " /bin/busybox find bin etc srv gone -exec /bin/busybox stat -c '%n %a %u %g %F' {} + 2>&1;"
    " /bin/busybox stat -c '%n %Y' srv/kept etc/os-release bin/busybox bin/sh"
)


def test_an_image_goes_and_comes_back(place: Place, api: Api, make_sandbox: Callable[..., Sandbox]) -> None:
    """To another registry than its own: packed anew, taken by skopeo, and the same when it is pulled."""
    own = place.open.push(place.source, "from/tiny:1")
    sandbox = make_sandbox(image=own)
    before = sandbox.exec(LOOK).json["stdout"]
    assert "srv/kept" in before
    assert "gone 7" not in before
    to = f"{place.login.host}/team/tiny:2"
    pushed = push(api, own, to)
    assert outcomes(pushed) == ["uploaded", "uploaded"]
    assert pushed["sentBytes"] == sum(one["sizeBytes"] for one in pushed["layers"])
    seen = inspected(place.login, to)
    assert seen["Digest"] == pushed["digest"]
    assert (seen["Labels"], seen["Env"]) == ({"a": "b"}, ["GREETING=hello"])
    again = push(api, own, to)
    assert (outcomes(again), again["digest"]) == (["present", "present"], pushed["digest"])
    api.kill(sandbox.id)
    assert api.request("DELETE", f"/images/{own}").status == 200
    back = make_sandbox(image=to)
    assert back.exec(LOOK).json["stdout"] == before
    assert back.out("echo $GREETING; pwd") == "hello\n/srv\n"
    assert PASSWORD not in place.daemon.log()


def test_a_snapshot_sends_only_what_is_new(
    place: Place, api: Api, make_sandbox: Callable[..., Sandbox]
) -> None:
    """What its image was pulled as is mounted from there, by a token for both repositories."""
    own = place.tokens.push(place.source, "from/tiny:1")
    sandbox = make_sandbox(image=own)
    sandbox.out("echo new > /srv/new; /bin/busybox rm /srv/kept; /bin/busybox mkdir /srv/d")
    kept = snapshot(sandbox)
    path = f"/snapshots/{kept}/push"
    place.service.asked.clear()
    first = api.request("POST", path, {"to": f"{place.tokens.host}/team/snap"})
    assert first.status == 200, first
    assert outcomes(first.json) == ["mounted", "mounted", "uploaded"]
    assert first.json["image"] == f"{place.tokens.host}/team/snap:latest"
    assert all("repository:team/snap:pull,push" in scopes for scopes, _ in place.service.asked)
    assert any("repository:from/tiny:pull" in scopes for scopes, _ in place.service.asked)
    assert len(place.service.asked) <= 3
    original = json.loads(tools.run("skopeo", "inspect", "--raw", f"{place.source}"))
    assert [one["digest"] for one in first.json["layers"]][:2] == [
        one["digest"] for one in original["layers"]
    ]
    second = api.request("POST", path, {"to": f"{place.tokens.host}/team/other:1"})
    assert outcomes(second.json) == ["mounted"] * 3, "what was pushed once, too"
    assert second.json["digest"] == first.json["digest"]
    assert inspected(place.tokens, second.json["image"])["Digest"] == first.json["digest"]
    assert api.request("DELETE", f"/snapshots/{kept}").status == 200
    api.kill(sandbox.id)
    assert api.request("DELETE", f"/images/{own}").status == 200
    back = make_sandbox(image=second.json["image"])
    assert back.out("cd /srv && echo *; /bin/busybox cat new") == "d new\nnew\n"
    assert "eyJ" not in place.daemon.log(), "no token"


def test_at_once(place: Place, api: Api) -> None:
    """The same and others, by several clients: one image each, and all of them whole."""
    own = place.open.push(place.source, "from/busy:1")
    assert api.request("POST", "/images", {"image": own}).status == 200
    names = [f"{place.login.host}/busy/{number % 3}:{number % 2}" for number in range(12)]
    found: list[Answer] = []

    def ask(to: str) -> None:
        with place.daemon.api() as client:
            found.append(client.request("POST", "/images/push", {"image": own, "to": to}))

    threads = [threading.Thread(target=ask, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [one.status for one in found] == [200] * 12, found
    assert len({one.json["digest"] for one in found}) == 1
    for name in set(names):
        assert inspected(place.login, name)["Digest"] == found[0].json["digest"]


def test_it_is_told_as_it_goes_on(place: Place, api: Api, folder: Path) -> None:
    own = unseen(folder, place.open, "from/told")
    assert api.request("POST", "/images", {"image": own}).status == 200
    wish = {"image": own, "to": f"{place.login.host}/told/tiny:1"}
    with Stream(api, "POST", "/images/push", wish, headers={"Accept": "text/event-stream"}) as stream:
        events = list(stream)
    assert events[-1].kind == "pushed"
    told = [one.data for one in events[:-1]]
    assert {one.kind for one in events[:-1]} == {"progress"}
    by_layer = {one["layer"]: one for one in told if "layer" in one}
    assert sorted(by_layer) == sorted(one["digest"] for one in events[-1].data["layers"])
    assert {(one["stage"], one["current"] == one["total"]) for one in by_layer.values()} == {("done", True)}
    assert told[-1] == {"stage": "done"}


def test_from_the_command_line(place: Place, folder: Path, make_sandbox: Callable[..., Sandbox]) -> None:
    own = unseen(folder, place.open, "from/typed")
    sandbox = make_sandbox(image=own)
    to = f"{place.login.host}/typed/tiny:1"
    done = place.daemon.nsbox_on_state("image", "push", "--progress", own, to)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"{re.escape(to)}@sha256:[0-9a-f]{{64}}\n", done.stdout)
    assert re.search(r"^packing$", done.stderr, re.MULTILINE)
    assert re.search(r"^[0-9a-f]{12}  done$", done.stderr, re.MULTILINE)
    quiet = place.daemon.nsbox_on_state("image", "push", own)  # to where it is from
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert quiet.stdout.startswith(f"{own}@sha256:")
    kept = snapshot(sandbox)
    taken = place.daemon.nsbox_on_state("snapshot", "push", kept, f"{place.login.host}/typed/snap:1")
    assert taken.returncode == 0, taken.stderr
    refused = place.daemon.nsbox_on_state("snapshot", "push", kept, f"{_by_name(place.login.host)}/a/b:1")
    assert refused.returncode != 0
    assert "does not let strangers push" in refused.stderr or "wants a name and a password" in refused.stderr
    assert "password_file" in refused.stderr


def test_from_python(place: Place, folder: Path) -> None:
    own = unseen(folder, place.open, "from/python")
    to = f"{place.login.host}/python/tiny:1"
    with Client(place.daemon.url, place.daemon.key) as client:
        client.images.pull(own)
        pushed = client.images.push(own, to)
        assert (pushed.image, [one.outcome for one in pushed.layers]) == (to, ["uploaded"])
        assert client.images.pushing(own, to).result().digest == pushed.digest

    async def other() -> None:
        async with AsyncClient(place.daemon.url, place.daemon.key) as client:
            again = await client.images.pushing(own, to).result()
            assert again.digest == pushed.digest
            with pytest.raises(NotFound):
                await client.snapshots.push("sn_none", to)

    trio.run(other)


def _by_name(host: str) -> str:
    return host.replace("127.0.0.1", "localhost")


def test_what_is_refused(place: Place, api: Api, make_sandbox: Callable[..., Sandbox]) -> None:
    """By whose fault it is, and what would mend it."""
    own = place.open.push(place.source, "from/refused:1")
    kept = snapshot(make_sandbox(image=own))

    def refusal(to: Any, status: int, code: str) -> Any:
        answers = [
            api.request("POST", "/images/push", {"image": own, "to": to}),
            api.request("POST", f"/snapshots/{kept}/push", {"to": to}),
        ]
        return [check_problem(one, status, code, "to") for one in answers].pop()

    refusal(f"{place.open.host}/UPPER", 422, "invalid_field")
    digest = refusal(f"{place.open.host}/a@sha256:{'0' * 64}", 422, "invalid_field")
    assert "tag" in digest["remedy"]
    refusal("registry.example/a:1", 403, "image_not_allowed")
    login = refusal(f"{_by_name(place.login.host)}/a:1", 422, "push_refused")
    assert f'registries."{_by_name(place.login.host)}"' in login["remedy"]
    assert "password_file" in login["remedy"]
    for body in ({}, {"image": own, "to": 1}, {"image": own, "tag": "x"}):
        assert api.request("POST", "/images/push", body).code in ("invalid_field", "invalid_json")
    assert api.request("POST", f"/snapshots/{kept}/push").code == "invalid_field"
    assert api.request("POST", "/images/push", {"image": "no/such:1"}).code == "image_not_found"


def test_who_may(place: Place, api: Api, make_sandbox: Callable[..., Sandbox]) -> None:
    """A key with the scope images; for a snapshot also its owner's."""
    kept = snapshot(make_sandbox(image=place.open.push(place.source, "from/who:1")))
    to = {"to": f"{place.open.host}/who/snap:1"}
    daemon = place.daemon
    assert daemon.nsbox_on_state("users", "create", "bob").returncode == 0
    theirs = made_key(daemon, "bob", "--scope", "images", "--scope", "sandboxes")
    with daemon.api(theirs) as bob:
        answer = bob.request("POST", f"/snapshots/{kept}/push", to)
        assert (answer.status, answer.code) == (404, "snapshot_not_found")
    with daemon.api(made_key(daemon, "bob", "--scope", "sandboxes")) as bob:
        for path in (f"/snapshots/{kept}/push", "/images/push"):
            answer = bob.request("POST", path, to)
            assert (answer.status, answer.code, answer.json["scope"]) == (403, "forbidden", "images")


# ---- a registry that fails


@pytest.fixture
def sink() -> Iterator[Sink]:
    with taking() as one:
        yield one


@pytest.fixture(scope="module")
def other(place: Place) -> Daemon:
    return place.daemon


@pytest.fixture(scope="module")
def tiny(other: Daemon) -> str:
    """An image that no registry has, of which half a layer is more than is in flight."""
    made = image([layer({"bin/busybox": tools.busybox(), "bin/sh": "busybox", "big": os.urandom(24 << 20)})])
    name = "localhost:1/tiny:1"
    with other.api() as api:
        archive = layout_tar(made, name)
        answer = api.request("POST", f"/images/import?name={name}", raw=archive, headers=OCTETS)
        assert answer.status == 200, answer
    return name


def test_failures_that_pass(other: Daemon, sink: Sink, tiny: str) -> None:
    """One 500, one lost connection in the middle: it is pushed all the same, and can be pulled."""

    def fail(taker: Taker) -> None:
        taker.body()
        taker.reply(500)

    def drop(taker: Taker) -> None:
        taker.body(8 << 20)
        taker.hang_up()

    sink.lies("HEAD", "blobs", fail, 1)
    sink.lies("POST", "uploads", fail, 1)
    sink.lies("PUT", "uploads", drop, 1)
    sink.lies("PUT", "manifests", fail, 1)
    to = f"{sink.host}/team/tiny:1"
    with other.api() as api:
        pushed = push(api, tiny, to)
        sandbox = api.sandbox(image=to)
        assert sandbox.out("/bin/busybox wc -c < /big") == f"{24 << 20}\n"
        api.kill(sandbox.id)
        assert api.request("GET", f"/images/{to}").json["digest"] == pushed["digest"]
        assert api.request("DELETE", f"/images/{to}").status == 200


def _refuse(taker: Taker) -> None:
    taker.body()
    taker.reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})


def _endless(taker: Taker) -> None:
    taker.body()
    taker.reply(201, length=1 << 40)
    while not taker.sink.stopping.is_set():
        taker.wfile.write(bytes(65_536))


@pytest.mark.parametrize(
    ("lie", "status", "code"), [(_refuse, 422, "push_refused"), (_endless, 502, "registry_failed")]
)
def test_failures_that_stay(other: Daemon, sink: Sink, tiny: str, lie: Lie, status: int, code: str) -> None:
    sink.lies("PUT", "uploads", lie)
    before = other.rss_kib()
    with other.api() as api:
        answer = api.request("POST", "/images/push", {"image": tiny, "to": f"{sink.host}/a:1"})
        assert (answer.status, answer.code) == (status, code), answer
        assert other.rss_kib() - before < 16 << 10, "of a layer of 24 MiB nothing is held in memory"
        assert "manifests" not in str(list(sink.stored))
        assert not workers(other)
        assert api.request("GET", "/images").status == 200


def workers(daemon: Daemon) -> list[str]:
    """Processes that pack."""
    found = []
    for one in descendants(daemon.pid):
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{one.pid}/cmdline").read_bytes()
            if b"snapshots.export" in line:
                found.append(line.decode(errors="replace"))
    return found


def test_api_is_killed_in_the_middle(other: Daemon, sink: Sink, tiny: str) -> None:
    """Nothing is tagged, nobody goes on packing, nothing is left here; the next one pushes it."""
    reached = threading.Event()

    def hold(taker: Taker) -> None:
        taker.body(1 << 20)
        reached.set()
        taker.sink.stopping.wait(60)

    sink.lies("PUT", "uploads", hold, 1)
    to = f"{sink.host}/killed/tiny:1"
    folders = [f"{other.state_dir}/{name}" for name in ("layers", "blobs", "library")]
    before = [sorted(os.listdir(folder)) for folder in folders]
    thread = threading.Thread(target=_lost, args=[other, {"image": tiny, "to": to}])
    thread.start()
    assert reached.wait(60)
    assert workers(other)
    other.kill(other.api_pid, signal.SIGKILL)
    other.wait_ready()
    thread.join(60)
    assert not sink.count("PUT", "manifests")
    wait_until(lambda: not workers(other), 30, "a worker is left")
    assert [sorted(os.listdir(folder)) for folder in folders] == before
    with other.api() as api:
        push(api, tiny, to)
    assert "/v2/killed/tiny/manifests/1" in sink.stored


def _lost(daemon: Daemon, wish: Any) -> None:
    """A request that is lost when api dies; ``Api`` would send it again, to the next api."""
    connection = http.client.HTTPConnection(daemon.url.partition("//")[2], timeout=60)
    headers = {"Authorization": f"Bearer {daemon.key}", "Content-Type": "application/json"}
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("POST", f"{BASE}/images/push", json.dumps(wish), headers)
        connection.getresponse().read()


def test_a_client_that_leaves(other: Daemon, sink: Sink, tiny: str) -> None:
    """The push goes on, and asking again joins it."""
    reached, go_on = threading.Event(), threading.Event()

    def hold(taker: Taker) -> None:
        reached.set()
        go_on.wait(60)
        taker.honest()

    sink.lies("PUT", "uploads", hold, 1)
    wish = {"image": tiny, "to": f"{sink.host}/left:1"}
    with other.api() as api:
        with Stream(api, "POST", "/images/push", wish, headers={"Accept": "text/event-stream"}):
            assert reached.wait(60)
        go_on.set()
        answer = api.request("POST", "/images/push", wish)
        assert (answer.status, outcomes(answer.json)) == (200, ["uploaded"])
    assert sink.count("PUT", "manifests") == 1 or sink.count("HEAD") > 3
