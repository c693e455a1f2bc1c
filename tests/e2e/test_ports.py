"""Ports as people use them: real servers in real sandboxes, reached through the proxy of a real daemon."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest
import trio
import trio_websocket

from tests.acceptance.plugin import Say
from tests.conftest import DaemonFactory
from tests.e2e import servers
from tests.e2e.client import Api, Sandbox
from tests.e2e.daemon import Daemon, wait_until
from tests.e2e.visitor import Preview, expose, serve, start
from tests.registries import tools
from tests.unit.proxy.test_head import REFUSED


@pytest.fixture
def node(sandbox: Sandbox) -> Preview:
    if sandbox.run("command -v node")["exitCode"]:
        pytest.skip("the default template has no Node here")
    serve(sandbox, "server.js", servers.NODE, "node")
    return expose(sandbox, 3000)


# ---- as the seed shows it


def test_a_process_and_its_port(sandbox: Sandbox) -> None:
    sandbox.write("/app/index.html", "hello from the sandbox")
    start(sandbox, "python3 -m http.server 8080", cwd="/app", env={"PORT": "8080"})
    preview = expose(sandbox, 8080)
    assert preview.told["listening"] is True
    assert preview.url == f"http://{sandbox.id.replace('_', '-')}-8080.localhost:{preview.port}/"
    answer = preview.ask()
    assert (answer.status, answer.body) == (200, b"hello from the sandbox")
    listed = sandbox.request("GET", "/ports").json
    assert [(one["port"], one["url"]) for one in listed] == [(8080, preview.url)]
    assert sandbox.request("POST", "/ports", {"port": 8080}).status == 200


def test_nothing_listens_yet_and_then_something_does(sandbox: Sandbox) -> None:
    preview = expose(sandbox, 8080, waitMs=0)
    assert preview.told["listening"] is False
    told = preview.ask()
    assert (told.status, told.code) == (502, "port_not_listening")
    page = preview.ask(headers={"Accept": "text/html"})
    assert page.headers["Content-Type"].startswith("text/html")
    assert b"Nothing listens on this port yet" in page.body

    def later() -> None:
        start(sandbox, "sleep 1; exec python3 -m http.server 8080")

    thread = threading.Thread(target=later)
    thread.start()
    assert expose(sandbox, 8080).told["listening"] is True
    thread.join()
    assert preview.ask().status == 200


def test_what_is_taken_away_or_was_never_exposed(sandbox: Sandbox) -> None:
    start(sandbox, "python3 -m http.server 8080")
    preview = expose(sandbox, 8080)
    other = preview.ask(headers={"Host": preview.netloc.replace("-8080.", "-8081.")})
    assert (other.status, other.code) == (404, "port_not_exposed")
    nobody = preview.ask(headers={"Host": f"sb-{'a' * 32}-8080.localhost"})
    assert (nobody.status, nobody.code) == (404, "sandbox_not_found")
    sock = preview.raw()
    assert sandbox.request("DELETE", "/ports/8080").status == 200
    assert preview.ask().code == "port_not_exposed"
    sock.close()


def test_an_ended_sandbox(api: Api) -> None:
    sandbox = api.sandbox()
    serve(sandbox, "origin.py", servers.ORIGIN + "\n", "python3")
    sandbox.request("DELETE", "/processes")
    start(sandbox, "python3 /srv/origin.py 8080")
    preview = expose(sandbox, 8080)
    with preview.raw() as sock:
        sock.sendall(f"GET / HTTP/1.1\r\nHost: {preview.netloc}\r\n\r\n".encode())
        assert sock.recv(100)
        api.kill(sandbox.id)
        begun = time.monotonic()
        while sock.recv(65_536):
            pass
        assert time.monotonic() - begun < 10  # its network must not live on in our socket
    assert preview.ask().code == "sandbox_not_found"


def test_a_server_on_ipv6_only(sandbox: Sandbox) -> None:
    if sandbox.run("test -e /proc/net/if_inet6")["exitCode"]:
        pytest.skip("this host has no IPv6")
    start(sandbox, "python3 -m http.server --bind ::1 8080")
    assert expose(sandbox, 8080).ask().status == 200


# ---- Node: bodies, events, polls


def test_node(node: Preview) -> None:
    assert node.ask().body == b"hello from node"


def test_what_node_is_told(node: Preview, daemon: Daemon) -> None:
    sent = {
        "Authorization": f"Bearer {daemon.key}", "X-Forwarded-For": "1.2.3.4", "X-Forwarded-Proto": "https",
        "Cookie": "a=b",
    }  # fmt: skip
    raw = json.loads(node.ask("/head", headers=sent).body)["headers"]
    fields = {name.lower(): value for name, value in zip(raw[::2], raw[1::2], strict=True)}
    assert fields["host"] == fields["x-forwarded-host"] == node.netloc
    assert (fields["x-forwarded-for"], fields["x-forwarded-proto"]) == ("127.0.0.1", "http")
    assert fields["cookie"] == "a=b"
    assert "authorization" not in fields


def test_large_bodies_both_ways(node: Preview, daemon: Daemon) -> None:
    body = bytes(range(256)) * (40 << 12)  # 40 MiB
    before = daemon.rss_kib()
    assert node.ask("/hash", method="POST", body=body).body.decode() == hashlib.sha256(body).hexdigest()
    assert hashlib.sha256(_echoed(node, body)).digest() == hashlib.sha256(body).digest()
    assert daemon.rss_kib() - before < 20 << 10


def _echoed(node: Preview, body: bytes) -> bytes:
    """Send in chunks, and read at the same time: who does not read is not read from either."""
    with node.raw() as sock:
        head = f"POST /echo HTTP/1.1\r\nHost: {node.netloc}\r\nTransfer-Encoding: chunked\r\n\r\n"

        def send() -> None:
            sock.sendall(head.encode())
            for start in range(0, len(body), 100_000):
                piece = body[start : start + 100_000]
                sock.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            sock.sendall(b"0\r\n\r\n")

        thread = threading.Thread(target=send)
        thread.start()
        response = http.client.HTTPResponse(sock)
        response.begin()
        found = response.read()
        thread.join()
        return found


def test_events_and_leaving(node: Preview, sandbox: Sandbox) -> None:
    connection = node.connect()
    connection.request("GET", "/events", headers={"Host": node.netloc})
    response = connection.getresponse()
    assert [response.fp.readline() for _ in range(2)]
    connection.close()
    response.close()
    wait_until(lambda: sandbox.read("/tmp/closed").status == 200, 20, "the server heard that we left")


def test_a_long_poll_and_a_client_that_has_sent_its_end(node: Preview) -> None:
    assert node.ask("/late").body == b"late"


def test_old_clients_head_and_continue(node: Preview) -> None:
    with node.raw() as sock:
        sock.sendall(f"GET / HTTP/1.0\r\nHost: {node.netloc}\r\n\r\n".encode())
        answer = b""
        while data := sock.recv(65_536):
            answer += data
        assert answer.endswith(b"hello from node")
    assert node.ask(method="HEAD").body == b""
    with node.raw() as sock:
        head = (
            f"POST /echo HTTP/1.1\r\nHost: {node.netloc}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
        sock.sendall(head.encode())
        assert sock.recv(1000).startswith(b"HTTP/1.1 100 Continue\r\n")
        sock.sendall(b"body")
        answer = b""
        while b"body" not in answer:
            answer += sock.recv(1000)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


# ---- WebSocket


async def _echo(preview: Preview, messages: list[str | bytes]) -> list[str | bytes]:
    stream = await trio.open_tcp_stream("127.0.0.1", preview.port)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            connection = await trio_websocket.wrap_client_stream(nursery, stream, preview.netloc, "/ws")
            found = []
            async with connection:
                for message in messages:
                    await connection.send_message(message)
                    found.append(await connection.get_message())
            nursery.cancel_scope.cancel()
    await stream.aclose()
    return found


def test_a_websocket(sandbox: Sandbox) -> None:
    serve(sandbox, "ws.py", servers.WEBSOCKET)
    preview = expose(sandbox, 4000)
    messages = ["hello", b"\x00\xff" * 1000, "x" * 60_000]
    assert trio.run(_echo, preview, messages) == messages


# ---- many


def test_a_thousand_connections(sandbox: Sandbox) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip(f"the host allows {hard} descriptors; the daemon needs more than 2,000 for this")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    sandbox.write("/srv/origin.py", servers.ORIGIN)
    start(sandbox, "ulimit -n 4096; exec python3 /srv/origin.py 8080")
    preview = expose(sandbox, 8080)
    request = f"GET / HTTP/1.1\r\nHost: {preview.netloc}\r\n\r\n".encode()
    held: list[socket.socket] = []
    try:
        for _ in range(1000):
            held.append(preview.raw())
            held[-1].sendall(request)
        for _ in range(2):
            for sock in held:
                answer = b""
                while not answer.endswith(b"\x00\x00"):
                    answer += sock.recv(4096)
                assert answer.startswith(b"HTTP/1.1 200 OK")
                sock.sendall(request)
    finally:
        for sock in held:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# ---- not public


def test_links(sandbox: Sandbox) -> None:
    start(sandbox, "python3 -m http.server 8080")
    preview = expose(sandbox, 8080, public=False)
    assert preview.ask().code == "link_needed"
    link = sandbox.request("POST", "/ports/8080/links", {"expiresInS": 600})
    assert link.status == 201
    path = "/" + link.json["url"].removeprefix(preview.url)
    assert preview.ask(path).status == 200
    moved = preview.ask(path, headers={"Accept": "text/html"})
    assert (moved.status, moved.headers["Location"]) == (303, "/")
    cookie = moved.headers["Set-Cookie"].partition(";")[0]
    assert preview.ask(headers={"Cookie": cookie}).status == 200
    assert preview.ask(path[:-1]).code == "link_needed"
    sandbox.request("DELETE", "/ports/8080")
    expose(sandbox, 8080, public=False)
    assert preview.ask(path).code == "link_needed"


def test_another_tenants_ports_do_not_exist(sandbox: Sandbox, daemon: Daemon) -> None:
    other = daemon.nsbox("keys", "create", "other", "--owner", "other", "--state-dir", daemon.state_dir)
    if other.returncode:
        pytest.skip(f"no second key: {other.stderr.strip()[-200:]}")
    key = next(word for word in other.stdout.split() if word.startswith("nsbox_"))
    expose(sandbox, 8080, waitMs=0)
    for method, below, body in (
        ("GET", "/ports", None), ("POST", "/ports", {"port": 1}), ("DELETE", "/ports/8080", None),
        ("POST", "/ports/8080/links", None),
    ):  # fmt: skip
        answer = sandbox.request(method, below, body, key=key)
        assert (answer.status, answer.code) == (404, "sandbox_not_found")


# ---- TCP, restarts


@pytest.fixture
def tcp_daemon(daemon_factory: DaemonFactory) -> Daemon:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    return daemon_factory(settings={"tcp_ports": f"{port}-{min(port + 3, 65_535)}"})


ECHO = """
import socketserver
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        data = b""
        while chunk := self.request.recv(65536):
            data += chunk
        self.request.sendall(b"you said " + data)
socketserver.ThreadingTCPServer(("127.0.0.1", 5432), Handler).serve_forever()
"""


def _say(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 30) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := sock.recv(65_536):
            answer += chunk
        return answer


def test_tcp_and_a_new_api_process(tcp_daemon: Daemon) -> None:
    """Ports outlive the api process, and nobody who comes in between is turned away."""
    with tcp_daemon.api() as api:
        sandbox = api.sandbox()
        serve(sandbox, "echo.py", ECHO)
        start(sandbox, "python3 -m http.server 8080")
        answer = sandbox.request("POST", "/ports", {"port": 5432, "protocol": "tcp", "waitMs": 30_000})
        host_port = answer.json["hostPort"]
        assert answer.json["url"] == f"tcp://127.0.0.1:{host_port}"
        assert _say(host_port, b"x" * 300_000) == b"you said " + b"x" * 300_000
        preview = expose(sandbox, 8080)

        before = tcp_daemon.api_pid
        tcp_daemon.kill(before, signal.SIGKILL)
        assert preview.ask().status == 200  # waits in the supervisor's socket meanwhile
        tcp_daemon.wait_ready()
        api.close()
        assert [one["port"] for one in sandbox.request("GET", "/ports").json] == [5432, 8080]
        assert _say(host_port, b"again") == b"you said again"

        sandbox.request("DELETE", "/ports/5432")
        wait_until(lambda: _refused(host_port), 10, "nobody listens any more")
        assert sandbox.request("POST", "/ports", {"port": 1, "protocol": "tcp"}).status == 201
        api.kill(sandbox.id)


def _refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_tcp_is_off_by_default(sandbox: Sandbox) -> None:
    answer = sandbox.request("POST", "/ports", {"port": 5432, "protocol": "tcp"})
    assert (answer.status, answer.code) == (409, "no_host_port")
    assert sandbox.request("GET", "/ports").json == []


def test_the_path_form(daemon_factory: DaemonFactory) -> None:
    daemon = daemon_factory(settings={"preview_url": "http://localhost:1/p"})
    with daemon.api() as api:
        sandbox = api.sandbox()
        start(sandbox, "python3 -m http.server 8080")
        told = sandbox.request("POST", "/ports", {"port": 8080, "waitMs": 30_000}).json
        assert told["url"] == f"http://localhost:1/p/{sandbox.id}/8080/"
        port = _proxy(daemon)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", f"/p/{sandbox.id}/8080/etc/hostname", headers={"Host": "localhost:1"})
        assert connection.getresponse().status in (200, 404)
        connection.close()
        api.kill(sandbox.id)


def _proxy(daemon: Daemon) -> int:
    """The port that the proxy listens on: of the daemon's two, the one that is not the API's."""
    with daemon.api() as api:
        ours = api.port
    found = set()
    with open(f"/proc/{daemon.api_pid}/net/tcp", encoding="ascii") as file:
        sockets = {line.split()[9]: int(line.split()[1].split(":")[1], 16) for line in file if " 0A " in line}
    for name in os.listdir(f"/proc/{daemon.api_pid}/fd"):
        try:
            target = os.readlink(f"/proc/{daemon.api_pid}/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:[") and target[8:-1] in sockets:
            found.add(sockets[target[8:-1]])
    (port,) = found - {ours}
    return port


# ---- what is malformed


def test_malformed_requests_do_no_harm(sandbox: Sandbox, daemon: Daemon, figure: Say) -> None:
    start(sandbox, "python3 -m http.server 8080")
    preview = expose(sandbox, 8080)
    pid = daemon.api_pid
    for name, data in REFUSED.items():
        with preview.raw() as sock:
            sock.sendall(data.replace(b"Host: a", f"Host: {preview.netloc}".encode()))
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            try:
                while chunk := sock.recv(65_536):
                    answer += chunk
            except ConnectionResetError:
                pass
            assert not answer or int(answer.split()[1]) in (*range(400, 500), 501), (name, answer)
    assert preview.ask().status == 200
    assert daemon.api_pid == pid
    figure(18, tried=len(REFUSED))


def test_the_api_is_not_on_the_proxys_listener_nor_the_other_way_round(
    sandbox: Sandbox, api: Api, daemon: Daemon
) -> None:
    start(sandbox, "python3 -m http.server 8080")
    preview = expose(sandbox, 8080)
    headers = {"Host": f"localhost:{preview.port}", "Authorization": f"Bearer {daemon.key}"}
    assert preview.ask("/api/v1/sandboxes", headers=headers).code == "preview_not_found"
    answer = api.request("GET", "//index.html", headers={"Host": preview.netloc})
    assert answer.status == 404


# ---- a real browser


@pytest.fixture(scope="module")
def chromium() -> str:
    """Debian's. Elsewhere what has this name may be a snap, which does not see a test's folders."""
    tools.need("chromium")
    return str(shutil.which("chromium"))


def test_a_browser(
    chromium: str, sandbox: Sandbox, daemon: Daemon, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A page from the sandbox fetches from its own origin, talks over a WebSocket, and gets nothing of
    the API."""
    serve(sandbox, "ws.py", servers.WEBSOCKET.replace("API/", daemon.url + "/"))
    preview = expose(sandbox, 4000)
    profile = tmp_path_factory.mktemp("profile")
    # Not --dump-dom: it needs virtual time, which runs out before what comes by a WebSocket is there.
    browser = subprocess.Popen(
        [
            chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            f"--user-data-dir={profile}", preview.url,
        ],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(lambda: sandbox.run("test -e /tmp/said")["exitCode"] == 0, 60, "what the page says")
    finally:
        browser.terminate()
        browser.wait(20)
    said = json.loads(sandbox.out("cat /tmp/said"))
    assert said == {
        "origin": preview.url.rstrip("/"), "fetched": "some data", "echoed": "ping", "api": "kept out",
        "health": "kept out",
    }  # fmt: skip
