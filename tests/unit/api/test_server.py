"""Connections: what malformed, slow, stalled, leaving and numerous clients do to the server."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import h11
import pytest
import trio
import trio.testing
from hypercorn.config import Config, Sockets
from hypercorn.trio.run import worker_serve
from hypercorn.utils import wrap_app

from nsbox.api import connection, exchange
from nsbox.api.server import serve
from nsbox.plan import shares
from nsbox.settings import Settings
from tests.acceptance.plugin import Say
from tests.unit.api.client import Server, ask, head, listening_socket, read_answer, running
from tests.unit.api.fakes import KEY, EndlessFile, FakeFile

SETTINGS = Settings(state_dir="/x", shutdown_grace_s=1, header_timeout_s=1, keep_alive_s=1)
PATIENT = Settings(state_dir="/x", shutdown_grace_s=60, header_timeout_s=60, keep_alive_s=60)
WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
# Bytes behind the head of an upgrade: hypercorn answers twice, and h11 objects to the second answer.
CRASH = head("GET", "//x", WEBSOCKET) + b"\x81\x85trailing"

MALFORMED = [
    b"\r\n\r\n",
    b"GET\r\n\r\n",
    b"\0" * 100,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://x/api/v1/sandboxes HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n bad: fold\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 40_000 + b"\r\n\r\n",
    b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    head("POST", "/sandboxes", {"Content-Length": "-1"}),
    head("POST", "/sandboxes", {"Content-Length": "1, 2"}),
    head("POST", "/sandboxes", {"Content-Length": "9" * 30}),
    head("POST", "/sandboxes", {"Content-Length": "99999999999"}),
    head("POST", "/sandboxes", {"Content-Length": "x"}),
    head("POST", "/sandboxes", {"Transfer-Encoding": "gzip"}),
    head("POST", "/sandboxes", {"Transfer-Encoding": "chunked"}) + b"zz\r\n",
    head("POST", "/sandboxes", {"Transfer-Encoding": "chunked"}) + b"5\r\nab",
    head("POST", "/sandboxes", {"Transfer-Encoding": "chunked", "Content-Length": "3"}) + b"0\r\n\r\n",
    head("GET", "/sandboxes", {"Upgrade": "h2c", "Connection": "Upgrade", "HTTP2-Settings": "AAMAAABk"}),
    head("GET", "/sandboxes", WEBSOCKET | {"Sec-WebSocket-Version": "7"}),
    head("GET", "/sandboxes", WEBSOCKET),
    head("GET", "/sandboxes", {}) + b"trailing garbage\r\n\r\n",
    CRASH,
]


@asynccontextmanager
async def hang_up_after(server: Server, data: bytes) -> AsyncIterator[trio.SocketStream]:
    async with await server.connect() as stream:
        await stream.send_all(data)
        yield stream


async def read_to_end(stream: trio.SocketStream) -> bytes:
    received = b""
    with trio.fail_after(10):
        try:
            while data := await stream.receive_some(65536):
                received += data
        except trio.BrokenResourceError:
            pass
    return received


async def lives(server: Server) -> None:
    assert (await server.ask("GET", "//healthz", key=None)).status == 200


async def test_an_unguarded_server_dies_of_one_request() -> None:
    """If this fails, hypercorn is mended and some of the guard may go."""

    async def app(scope: object, receive: Callable[[], Awaitable[object]], send: object) -> None:
        await receive()

    sock = listening_socket()
    config = Config()
    config.errorlog = None
    died = trio.Event()

    async def run() -> None:
        wrapped = wrap_app(app, config.wsgi_max_body_size, None)
        try:
            await worker_serve(wrapped, config, sockets=Sockets([], [sock], []))
        except* (h11.LocalProtocolError, trio.ClosedResourceError):
            died.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        stream = await trio.open_tcp_stream(*sock.getsockname())
        with trio.move_on_after(5):
            await stream.send_all(CRASH)
            await died.wait()
        await stream.aclose()
        nursery.cancel_scope.cancel()
    sock.close()
    assert died.is_set()


@pytest.mark.parametrize("data", MALFORMED, ids=range(len(MALFORMED)))
async def test_malformed_requests(data: bytes, monkeypatch: pytest.MonkeyPatch, figure: Say) -> None:
    monkeypatch.setattr(exchange, "BODY_GRACE_S", 0.2)
    async with running(SETTINGS) as server:
        async with hang_up_after(server, data) as stream:
            received = await read_to_end(stream)
        for line in received.split(b"\r\n"):
            if line.startswith(b"HTTP/"):
                assert line[9:10] in (b"2", b"4") or line.startswith(b"HTTP/1.1 501"), line
        assert not received.startswith(b"HTTP/1.1 101")
        await lives(server)
    figure(18, tried=1)


async def test_malformed_requests_whose_clients_leave_at_once() -> None:
    async with running(SETTINGS) as server:
        for data in MALFORMED:
            for cut in (len(data), len(data) // 2, 1):
                async with hang_up_after(server, data[:cut]):
                    pass
        await lives(server)


async def test_one_connection_serves_many_requests_in_order() -> None:
    async with running(SETTINGS) as server:
        target = f"/sandboxes/{await server.sandbox()}"
        async with await server.connect() as stream:
            for method, path, body, status in (
                ("GET", target, None, 200),
                ("POST", f"{target}/exec", {"command": "a"}, 200),
                ("GET", f"{target}/files?path=/a&raw=true", None, 404),
                ("POST", f"{target}/exec", {"nope": 1}, 422),
                ("POST", "/sandboxes", b"{", 400),
                ("GET", "/nope", None, 404),
                ("GET", target, None, 200),
            ):
                assert (await ask(stream, method, path, body)).status == status
            two = head("GET", target, {}) + head("GET", "/nope", {"Connection": "close"})
            await stream.send_all(two)
            received = await read_to_end(stream)
            assert received.index(b"HTTP/1.1 200") < received.index(b"HTTP/1.1 404")


async def test_http_1_0_and_continue() -> None:
    async with running(SETTINGS) as server:
        async with await server.connect() as stream:
            await stream.send_all(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert b"200" in (await read_to_end(stream))[:15]
        async with await server.connect() as stream:
            sent = {"Expect": "100-continue", "Content-Length": "2", "Connection": "close"}
            await stream.send_all(head("POST", "/sandboxes", sent))
            assert b"100" in (await stream.receive_some(100))[:15]
            await stream.send_all(b"{}")
            assert b"201" in (await read_to_end(stream))[:15]


async def test_slow_heads_are_cut(figure: Say) -> None:
    settings = Settings(state_dir="/x", header_timeout_s=1, keep_alive_s=60)
    async with running(settings) as server:
        for data in (b"", b"GET / HTT", head("GET", "/sandboxes", {})[:-2]):
            start = trio.current_time()
            async with hang_up_after(server, data) as stream:
                assert await read_to_end(stream) == b""
            assert 0.9 < trio.current_time() - start < 3
        # Bytes that drip in do not prolong the time, nor does a request before them.
        async with await server.connect() as stream:
            await ask(stream, "GET", "/sandboxes")
            start = trio.current_time()
            with pytest.raises(trio.BrokenResourceError):
                for byte in head("GET", "/sandboxes", {"A": "x" * 1000}):
                    await stream.send_all(bytes([byte]))
                    await trio.sleep(0.05)
            assert trio.current_time() - start < 3
    figure(11, "cut", tried=4)


async def test_idle_connections_are_closed() -> None:
    settings = Settings(state_dir="/x", header_timeout_s=60, keep_alive_s=1)
    async with running(settings) as server:
        target = f"/sandboxes/{await server.sandbox()}"
        for method, path, body in (
            ("GET", target, None),
            ("POST", f"{target}/exec", {"command": "a"}),
            ("GET", "/nope", None),
            ("POST", "/sandboxes", b"{"),
        ):
            async with await server.connect() as stream:
                await ask(stream, method, path, body)
                start = trio.current_time()
                assert await read_to_end(stream) == b""
                assert 0.9 < trio.current_time() - start < 3


async def test_a_long_command_is_not_idle() -> None:
    async with running(SETTINGS) as server:
        target = f"/sandboxes/{await server.sandbox()}/exec"
        server.fakes.commands.hang = True
        async with await server.connect() as stream:
            await stream.send_all(head("POST", target, {"Content-Length": "15"}) + b'{"command":"a"}')
            with trio.move_on_after(1.5) as scope:
                await stream.receive_some(1)
            assert scope.cancelled_caught
            assert not server.fakes.commands.cancelled.is_set()


async def test_a_client_that_leaves_cancels_its_command() -> None:
    async with running(PATIENT) as server:
        target = f"/sandboxes/{await server.sandbox()}/exec"
        server.fakes.commands.hang = True
        async with await server.connect() as stream:
            await stream.send_all(head("POST", target, {"Content-Length": "15"}) + b'{"command":"a"}')
            await server.fakes.commands.running.wait()
        with trio.fail_after(5):
            await server.fakes.commands.cancelled.wait()


async def test_slow_bodies_are_cut(monkeypatch: pytest.MonkeyPatch, figure: Say) -> None:
    monkeypatch.setattr(exchange, "BODY_GRACE_S", 0.2)
    async with running(PATIENT) as server:
        target = f"/sandboxes/{await server.sandbox()}/files?path=/a"
        for kind in ("application/json", "application/octet-stream"):
            sent = head("PUT", target, {"Content-Length": "100", "Content-Type": kind}) + b"{"
            async with hang_up_after(server, sent) as stream:
                answer = await read_answer(stream)
                assert (answer.status, answer.code) == (400, "invalid_request")
                await read_to_end(stream)
        assert server.fakes.files.files == {}
    figure(11, "cut", tried=2)


async def test_a_slow_service_does_not_count_as_a_slow_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BODY_GRACE_S", 0.2)
    async with running(PATIENT) as server:
        server.fakes.files.before_chunk = lambda: trio.sleep(0.3)
        target = f"/sandboxes/{await server.sandbox()}/files?path=/a"
        octets = {"Content-Type": "application/octet-stream"}
        assert (await server.ask("PUT", target, bytes(200_000), headers=octets)).status == 200


@pytest.mark.parametrize("size", [1_000_000, 30_000_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_early_answers_reach_clients_that_are_still_sending(size: int, chunked: bool) -> None:
    small = Settings(state_dir="/x", max_json_bytes=1000)
    async with running(small) as server:
        sandbox = await server.sandbox()
        body = bytes(size)
        files = f"/sandboxes/{sandbox}/files?path=/a"
        octets = {"Content-Type": "application/octet-stream"}
        with trio.fail_after(10):
            answer = await server.ask("POST", "/sandboxes", body, key="wrong", chunked=chunked)
            assert answer.status == 401
            answer = await server.ask("POST", "/sandboxes", body, chunked=chunked)
            assert answer.status in (413, 415)
            answer = await server.ask("PUT", f"{files}&x=1", body, headers=octets, chunked=chunked)
            assert answer.status == 400
        await lives(server)


async def test_a_drained_connection_can_be_used_again() -> None:
    async with running(PATIENT) as server, await server.connect() as stream:
        assert (await ask(stream, "POST", "/sandboxes", bytes(1_000_000), key="wrong")).status == 401
        assert (await ask(stream, "POST", "/sandboxes")).status == 201


async def test_a_full_queue_does_not_hold_up_the_end() -> None:
    """An application that does not read, and a reader of the connection that waits for it to."""
    ended = trio.Event()

    async def app(scope: object, receive: object, send: object, *more: object) -> None:
        await ended.wait()

    async def send(message: object) -> None:
        pass

    with trio.fail_after(5):
        async with connection.Tasks() as tasks:
            put = await tasks.spawn_app(app, Config(), {}, send)
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(put, {"type": "http.request", "body": b"x", "more_body": True})
                await trio.testing.wait_all_tasks_blocked()
                await put({"type": "http.disconnect"})
                ended.set()


async def test_an_endless_body_after_an_early_answer_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither more bytes than are drained, nor bytes that are announced and never come."""
    monkeypatch.setattr(exchange, "DRAIN_BYTES", 1_000_000)
    monkeypatch.setattr(exchange, "DRAIN_S", 0.2)
    async with running(PATIENT) as server:
        sent = head("POST", "/sandboxes", {"Content-Length": "10000000000"}, key="wrong")
        async with hang_up_after(server, sent) as stream:
            assert (await read_answer(stream)).status == 401
            await read_to_end(stream)
        async with hang_up_after(server, sent) as stream:
            with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):
                while True:
                    await stream.send_all(bytes(65536))
        await no_connections(server)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def no_connections(server: Server) -> None:
    """Waits until the server has closed all that it had open: a descriptor for the listener is left."""
    with trio.fail_after(5):
        while sum(1 for fd in os.listdir("/proc/self/fd") if _is_server_side(fd, server.port)):
            await trio.sleep(0.01)


def _is_server_side(fd: str, port: int) -> bool:
    """Whether the descriptor is an accepted connection of ours."""
    try:
        if not stat.S_ISSOCK(os.stat(f"/proc/self/fd/{fd}").st_mode):
            return False
        with socket.socket(fileno=os.dup(int(fd))) as sock:
            return bool(sock.getsockname()[1:2] == (port,) and sock.getpeername())
    except OSError:
        return False  # closed meanwhile, or the listener


async def test_connections_leave_nothing_behind() -> None:
    async with running(PATIENT) as server:
        target = f"/sandboxes/{await server.sandbox()}"
        await no_connections(server)
        before = descriptors()
        for _ in range(30):
            async with await server.connect() as stream:
                await ask(stream, "POST", f"{target}/exec", {"command": "a"})
            async with hang_up_after(server, CRASH):
                pass
            async with await server.connect():
                pass
        await no_connections(server)
        assert descriptors() == before


def resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_an_upload_to_a_slow_disk_keeps_memory_flat() -> None:
    async with running(PATIENT) as server:
        files = server.fakes.files
        files.keep_uploads = False
        highest = 0
        opened = trio.Event()

        async def slow() -> None:
            nonlocal highest
            highest = max(highest, resident_bytes())
            await opened.wait()

        files.before_chunk = slow
        target = f"/sandboxes/{await server.sandbox()}/files?path=/a"
        size = 64 * 1024 * 1024
        sent = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        piece = bytes(1024 * 1024)
        async with hang_up_after(server, head("PUT", target, sent)) as stream:
            start = resident_bytes()
            with trio.move_on_after(0.5) as stalled:
                for _ in range(64):
                    await stream.send_all(piece)
            assert stalled.cancelled_caught, "the client must feel that the disk is slow"
            highest = max(highest, resident_bytes())
            opened.set()
        with trio.fail_after(5):
            await files.aborted.wait()
        assert highest - start < 16 * 1024 * 1024
        assert b"/a" not in files.files


async def test_a_large_upload_passes_through() -> None:
    async with running(PATIENT) as server:
        files = server.fakes.files
        files.keep_uploads = False
        target = f"/sandboxes/{await server.sandbox()}/files?path=/a"
        size = 64 * 1024 * 1024
        sent = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        async with hang_up_after(server, head("PUT", target, sent)) as stream:
            piece = bytes(1024 * 1024)
            start = resident_bytes()
            for _ in range(64):
                await stream.send_all(piece)
            assert (await read_answer(stream)).json()["size"] == size
            assert resident_bytes() - start < 16 * 1024 * 1024


async def test_a_client_that_leaves_an_upload_changes_nothing() -> None:
    async with running(PATIENT) as server:
        files = server.fakes.files
        files.files[b"/a"] = b"old"
        target = f"/sandboxes/{await server.sandbox()}/files?path=/a"
        for sent in ({"Content-Length": "100"}, {"Transfer-Encoding": "chunked"}):
            files.aborted = trio.Event()
            sent["Content-Type"] = "application/octet-stream"
            async with hang_up_after(server, head("PUT", target, sent) + b"5\r\nabcde\r\n"):
                pass
            with trio.fail_after(5):
                await files.aborted.wait()
        assert files.files == {b"/a": b"old"}


async def test_a_download_stops_when_the_client_leaves() -> None:
    async with running(PATIENT) as server:
        server.fakes.files.opened = file = EndlessFile(1 << 40)
        target = f"/sandboxes/{await server.sandbox()}/files?path=/a&raw=true"
        async with hang_up_after(server, head("GET", target, {})) as stream:
            await stream.receive_some(1000)
        await no_connections(server)
        with trio.fail_after(5):
            while True:
                reads = file.reads
                await trio.sleep(0.05)
                if file.reads == reads:
                    break


async def test_a_file_that_shrinks_is_not_taken_for_whole() -> None:
    async with running(PATIENT) as server:
        server.fakes.files.opened = FakeFile(b"x" * 10, 0.0, size=20)
        target = f"/sandboxes/{await server.sandbox()}/files?path=/a&raw=true"
        with pytest.raises(ExceptionGroup) as caught:
            await server.ask("GET", target)
        assert caught.group_contains(h11.RemoteProtocolError, match="without sending complete", depth=1)
        await lives(server)


async def test_readers_that_stall_are_cut(monkeypatch: pytest.MonkeyPatch, figure: Say) -> None:
    monkeypatch.setattr(connection, "SEND_STALL_S", 0.2)
    async with running(PATIENT) as server:
        server.fakes.files.opened = EndlessFile(1 << 40)
        target = f"/sandboxes/{await server.sandbox()}/files?path=/a&raw=true"
        async with hang_up_after(server, head("GET", target, {})):
            await no_connections(server)
    figure(11, "cut", tried=1)


async def test_at_the_cap_the_longest_idle_connection_goes() -> None:
    settings = Settings(state_dir="/x", max_connections=2, header_timeout_s=60, keep_alive_s=60)
    async with running(settings) as server:
        target = f"/sandboxes/{await server.sandbox()}/exec"
        await no_connections(server)
        async with await server.connect() as first, await server.connect() as second:
            await ask(first, "GET", "/sandboxes")
            await ask(second, "GET", "/sandboxes")
            await ask(first, "GET", "/sandboxes")
            assert (await server.ask("GET", "/sandboxes")).status == 200
            assert await read_to_end(second) == b""
            await ask(first, "GET", "/sandboxes")
            # Connections that work for a client are not closed: the newcomer is refused.
            server.fakes.commands.hang = True
            async with await server.connect() as third:
                for stream in (first, third):
                    server.fakes.commands.running = trio.Event()
                    await stream.send_all(head("POST", target, {"Content-Length": "15"}) + b'{"command":"a"}')
                    await server.fakes.commands.running.wait()
                async with await server.connect() as fourth:
                    assert b"503" in (await read_to_end(fourth))[:15]


# Below, the block that is cancelled swallows what is raised in it: what was seen is judged after it.


async def test_stopping_closes_idle_connections_at_once() -> None:
    seen: list[bytes] = []
    start = 0.0
    async with running(PATIENT) as server, await server.connect() as idle, await server.connect() as fresh:
        await ask(idle, "GET", "/sandboxes")
        start = trio.current_time()
        server.nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            seen.extend([await read_to_end(idle), await read_to_end(fresh)])
    assert seen == [b"", b""]
    assert trio.current_time() - start < 2


async def test_stopping_lets_requests_finish() -> None:
    seen: list[object] = []
    async with running(PATIENT) as server:
        opened = trio.Event()
        server.fakes.files.before_chunk = opened.wait
        target = f"/sandboxes/{await server.sandbox()}/files?path=/a"
        sent = {"Content-Length": "1", "Content-Type": "application/octet-stream"}
        async with hang_up_after(server, head("PUT", target, sent) + b"x") as stream:
            await trio.testing.wait_all_tasks_blocked(0.05)
            server.nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked(0.05)
                try:
                    await server.connect()
                except OSError:
                    seen.append("refused")
                opened.set()
                seen.append((await read_answer(stream)).status)
                seen.append(await read_to_end(stream))
    assert seen == ["refused", 200, b""]


@pytest.mark.parametrize("what", ["stalled reader", "hanging command"])
async def test_stopping_is_bounded(what: str) -> None:
    start = 0.0
    async with running(Settings(state_dir="/x", shutdown_grace_s=1)) as server:
        one = f"/sandboxes/{await server.sandbox()}"
        stream = await server.connect()
        if what == "stalled reader":
            server.fakes.files.opened = file = EndlessFile(1 << 40)
            await stream.send_all(head("GET", f"{one}/files?path=/a&raw=true", {}))
            while not file.reads:
                await trio.sleep(0.01)
        else:
            server.fakes.commands.hang = True
            await stream.send_all(head("POST", f"{one}/exec", {"Content-Length": "15"}) + b'{"command":"a"}')
            await server.fakes.commands.running.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)
        start = trio.current_time()
    assert 0.9 < trio.current_time() - start < 3
    await stream.aclose()


async def test_an_error_of_the_application_itself_costs_one_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: dict[str, object], receive: object, send: object) -> None:
        if scope["path"] == "/bad":
            raise ExceptionGroup("a bug", [KeyError("x")])
        await send({"type": "http.response.start", "status": 204, "headers": []})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": b""})  # type: ignore[operator]

    sock = listening_socket()
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: serve(app, sock, SETTINGS, task_status=task_status))
        for path, status in (("//bad", None), ("//good", 204)):
            async with await trio.open_tcp_stream(*sock.getsockname()) as stream:
                await stream.send_all(head("GET", path, {}, KEY))
                if status is None:
                    assert await read_to_end(stream) == b""
                else:
                    assert (await read_answer(stream)).status == status
        nursery.cancel_scope.cancel()
    assert "a bug" in caplog.text


async def test_a_client_has_its_share_of_the_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """One address takes no more of them, working or idle; another still comes in."""
    monkeypatch.setattr(shares, "LOOPBACK", ())
    settings = Settings(state_dir="/x", address_connections=2, header_timeout_s=60, keep_alive_s=60)
    async with running(settings) as server:

        async def connect(address: str) -> trio.SocketStream:
            return await trio.open_tcp_stream("127.0.0.1", server.port, local_address=address)

        async with await connect("127.0.0.2") as other:
            await ask(other, "GET", "/sandboxes")
            target = f"/sandboxes/{await server.sandbox()}/exec"
            await no_connections_from(server, "127.0.0.1")
            async with await connect("127.0.0.1") as first, await connect("127.0.0.1") as second:
                await ask(first, "GET", "/sandboxes")
                await ask(second, "GET", "/sandboxes")
                async with await connect("127.0.0.1") as third:
                    await ask(third, "GET", "/sandboxes")
                    assert await read_to_end(first) == b"", "its own that was idle longest goes"
                    server.fakes.commands.hang = True
                    for stream in (second, third):
                        server.fakes.commands.running = trio.Event()
                        sent = head("POST", target, {"Content-Length": "15"}) + b'{"command":"a"}'
                        await stream.send_all(sent)
                        await server.fakes.commands.running.wait()
                    async with await connect("127.0.0.1") as fourth:
                        assert b"503" in (await read_to_end(fourth))[:15]
                    await ask(other, "GET", "/sandboxes")
                    async with await connect("127.0.0.2") as another:
                        await ask(another, "GET", "/sandboxes")


async def no_connections_from(server: Server, address: str) -> None:
    """Waits until no connection of the address is left on the server's side."""
    with trio.fail_after(10):
        while any(_is_from(fd, server.port, address) for fd in os.listdir("/proc/self/fd")):
            await trio.sleep(0.01)


def _is_from(fd: str, port: int, address: str) -> bool:
    try:
        if not stat.S_ISSOCK(os.stat(f"/proc/self/fd/{fd}").st_mode):
            return False
        with socket.socket(fileno=os.dup(int(fd))) as sock:
            return bool(sock.getsockname()[1:2] == (port,) and sock.getpeername()[0] == address)
    except OSError:
        return False


async def test_who_was_refused_has_no_claim_to_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of a body that nobody wants is taken in for a while; at the cap, others come first."""
    monkeypatch.setattr(exchange, "DRAIN_S", 60)
    settings = Settings(state_dir="/x", max_connections=2, header_timeout_s=60, keep_alive_s=60)
    async with running(settings) as server:
        await no_connections(server)
        sent = head("POST", "/sandboxes", {"Content-Length": "1000"}, key="wrong")
        async with hang_up_after(server, sent) as first, hang_up_after(server, sent) as second:
            for stream in (first, second):
                assert b"401" in (await stream.receive_some(100))[:15]
            for _ in range(3):
                assert (await server.ask("GET", "/sandboxes")).status == 200
