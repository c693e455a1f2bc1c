"""nginx in front of the proxy, with TLS, configured by the block in docs/previews.md."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
import trio_websocket

from tests.conftest import DaemonFactory
from tests.e2e import servers
from tests.e2e.account import CHECKOUT
from tests.e2e.client import Sandbox
from tests.e2e.daemon import Daemon, wait_until
from tests.e2e.visitor import expose, serve, start

DOMAIN = "preview.example.org"
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


def _nginx() -> str:
    """The real one; installed where that is possible."""
    found = shutil.which("nginx", path=_PATH)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        # RUNLEVEL: the package is not to start a service of its own.
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        for arguments in (
            ["update", "-qq"],
            ["install", "-y", "-qq", "--no-install-recommends", "nginx-light"],
        ):
            subprocess.run(
                ["apt-get", *arguments], env=environment, capture_output=True, check=False, timeout=600
            )
        found = shutil.which("nginx", path=_PATH)
    if found is None:
        pytest.skip("there is no nginx here, and it could not be installed")
    return found


class Front(NamedTuple):
    """nginx, and the sandbox behind it."""

    port: int
    host: str
    context: ssl.SSLContext
    sandbox: Sandbox
    daemon: Daemon

    def ask(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection(self.host, timeout=60, context=self.context)
        raw = socket.create_connection(("127.0.0.1", self.port), 60)
        connection.sock = self.context.wrap_socket(raw, server_hostname=self.host)
        try:
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def _certificate(folder: Path) -> ssl.SSLContext:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here to make a certificate with")
    pem, key = folder / "cert.pem", folder / "cert.key"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2", "-subj", f"/CN={DOMAIN}", "-addext", f"subjectAltName=DNS:*.{DOMAIN}",
            "-keyout", str(key), "-out", str(pem),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return ssl.create_default_context(cafile=str(pem))


def _configuration(folder: Path, port: int, proxy: int) -> str:
    """What the documentation says, with the places of this test put in."""
    block = re.search(r"```nginx\n(.*?)```", (CHECKOUT / "docs/previews.md").read_text(), re.DOTALL)
    assert block is not None
    text = block[1]
    for before, after in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        (f"/etc/ssl/{DOMAIN}.pem", f"{folder}/cert.pem"),
        (f"/etc/ssl/{DOMAIN}.key", f"{folder}/cert.key"),
        ("http://127.0.0.1:8081", f"http://127.0.0.1:{proxy}"),
    ):
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    folders = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; server_names_hash_bucket_size 128;\n"
        f"client_body_temp_path {folder}/body;\n{folders}{text} }}\n"
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@pytest.fixture
def front(daemon_factory: DaemonFactory, tmp_path: Path) -> Iterator[Front]:
    program, context = _nginx(), _certificate(tmp_path)
    port, proxy = _free_port(), _free_port()
    daemon = daemon_factory(
        settings={
            "proxy_port": str(proxy),
            "preview_url": f"https://*.{DOMAIN}:{port}",
            "trusted_proxies": "127.0.0.1",
        }
    )
    config = tmp_path / "nginx.conf"
    config.write_text(_configuration(tmp_path, port, proxy))
    nginx = subprocess.Popen([program, "-c", str(config), "-e", str(tmp_path / "error.log")])
    try:
        wait_until(lambda: _listens(port) or nginx.poll() is not None, 10, "nginx")
        assert nginx.poll() is None, (tmp_path / "error.log").read_text()
        with daemon.api() as api:
            sandbox = api.sandbox()
            yield Front(port, f"sb-{sandbox.id[3:]}-%d.{DOMAIN}", context, sandbox, daemon)
            api.kill(sandbox.id)
    finally:
        nginx.terminate()
        nginx.wait(10)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _at(front: Front, port: int) -> Front:
    told = front.sandbox.request("POST", "/ports", {"port": port, "waitMs": 30_000}).json
    assert told["url"] == f"https://{front.host % port}:{front.port}/"
    assert told["listening"]
    return front._replace(host=front.host % port)


def test_through_nginx_with_tls(front: Front) -> None:
    if front.sandbox.run("command -v node")["exitCode"]:
        pytest.skip("the default template has no Node here")
    serve(front.sandbox, "server.js", servers.NODE, "node")
    there = _at(front, 3000)
    assert there.ask("/") == (200, b"hello from node")

    status, body = there.ask("/head", {"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Proto": "http"})
    raw = json.loads(body)["headers"]
    fields = {name.lower(): value for name, value in zip(raw[::2], raw[1::2], strict=True)}
    assert status == 200
    assert fields["x-forwarded-proto"] == "https"
    assert fields["x-forwarded-for"] == "127.0.0.1, 127.0.0.1"  # the visitor, as nginx saw it, and nginx
    assert fields["host"].startswith(there.host)

    begun = time.monotonic()
    with there.context.wrap_socket(
        socket.create_connection(("127.0.0.1", there.port), 30), server_hostname=there.host
    ) as sock:
        sock.sendall(f"GET /events HTTP/1.1\r\nHost: {there.host}\r\n\r\n".encode())
        received = b""
        while b"data: 3\n" not in received:
            received += sock.recv(65_536)
    assert time.monotonic() - begun < 20, "events came as they were sent"


async def _echo(front: Front, message: str) -> object:
    with trio.fail_after(30):
        stream = trio.SSLStream(
            await trio.open_tcp_stream("127.0.0.1", front.port), front.context, server_hostname=front.host
        )
        async with trio.open_nursery() as nursery:
            connection = await trio_websocket.wrap_client_stream(nursery, stream, front.host, "/ws")
            await connection.send_message(message)
            answer = await connection.get_message()
            await connection.aclose()
            nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(stream)
    return answer


def test_a_websocket_through_nginx(front: Front) -> None:
    serve(front.sandbox, "ws.py", servers.WEBSOCKET)
    assert trio.run(_echo, _at(front, 4000), "through nginx") == "through nginx"


def test_a_link_through_nginx_makes_a_secure_cookie(front: Front) -> None:
    serve(front.sandbox, "ws.py", servers.WEBSOCKET)
    there = _at(front, 4000)
    front.sandbox.request("POST", "/ports", {"port": 4000, "public": False})
    assert there.ask("/data")[0] == 403
    link = front.sandbox.request("POST", "/ports/4000/links").json["url"]
    path = "/" + link.split("/", 3)[3]
    connection = http.client.HTTPSConnection(there.host, timeout=60, context=there.context)
    raw = socket.create_connection(("127.0.0.1", there.port), 60)
    connection.sock = there.context.wrap_socket(raw, server_hostname=there.host)
    connection.request("GET", path, headers={"Accept": "text/html"})
    response = connection.getresponse()
    assert response.status == 303
    assert "Secure" in response.headers["Set-Cookie"]
    connection.close()


# ---- nginx as what runs in a sandbox

_INSIDE = """
daemon off; master_process off; user root; pid /srv/nginx.pid; error_log stderr;
events { worker_connections 64; }
http {
  access_log off; default_type text/plain;
  client_body_temp_path /srv/t1; proxy_temp_path /srv/t2; fastcgi_temp_path /srv/t3;
  uwsgi_temp_path /srv/t4; scgi_temp_path /srv/t5;
  server { listen 127.0.0.1:8080; root /srv/www; sendfile on; }
}
"""


def test_nginx_in_a_sandbox(sandbox: Sandbox) -> None:
    """As a tenant would bring it along: the host's program and its libraries, served by the preview."""
    program = _nginx()
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    libraries = re.findall(r"=> (/\S+)", listed)
    for path in (program, *libraries):
        name = "nginx" if path == program else f"lib/{os.path.basename(path)}"
        with open(path, "rb") as file:
            assert sandbox.upload(f"/srv/{name}", file.read()).status == 200
    body = os.urandom(8 << 20)
    assert sandbox.upload("/srv/www/large", body).status == 200
    sandbox.write("/srv/www/index.html", "hello from nginx")
    sandbox.write("/srv/nginx.conf", _INSIDE)
    sandbox.out("chmod +x /srv/nginx")
    start(
        sandbox,
        "LD_LIBRARY_PATH=/srv/lib exec /srv/nginx -p /srv -c /srv/nginx.conf -e stderr >/tmp/log 2>&1",
    )
    preview = expose(sandbox, 8080)
    assert preview.told["listening"] is True, sandbox.read("/tmp/log").json
    answer = preview.ask()
    assert (answer.status, answer.body) == (200, b"hello from nginx")
    assert answer.headers["Server"].startswith("nginx/")
    assert preview.ask("/large").body == body
    part = preview.ask("/large", headers={"Range": "bytes=1000-1999"})
    assert (part.status, part.body) == (206, body[1000:2000])
    assert preview.ask("/nothing").status == 404
