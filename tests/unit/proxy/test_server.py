"""The proxy over real sockets, between visitors and servers of every kind."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import AsyncIterator

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nsbox.plan import shares
from nsbox.service.ports import Reach
from tests.unit.proxy.origins import HOST_A, HOST_B, KEY, A, B, Origin, Proxy, Visitor, ok
from tests.unit.proxy.test_head import REFUSED


@pytest.fixture
async def proxy(nursery: trio.Nursery) -> AsyncIterator[Proxy]:
    one = Proxy(nursery)
    await nursery.start(one.run)
    yield one
    one.scope.cancel()
    with trio.fail_after(5):
        await one.stopped.wait()
    assert not one.edge.counts
    assert one.edge.held.bytes == 0


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


GET_A = f"GET / HTTP/1.1\r\nHost: {HOST_A}\r\n\r\n".encode()


# ---- requests and answers


async def test_requests_on_one_connection_use_one_connection_inside(proxy: Proxy) -> None:
    origin = proxy.ports.behaviour[A] = Origin(lambda head: ok(head.split(b" ")[1]))
    async with await proxy.connect() as visitor:
        for path in ("/a", "/b", "/c"):
            await visitor.get(path)
            assert (await visitor.until(path.encode())).startswith(b"HTTP/1.1 200 OK\r\n")
    assert len(origin.heads) == 3
    assert proxy.ports.dials == [A]


async def test_requests_sent_ahead_are_answered_in_order(proxy: Proxy) -> None:
    proxy.ports.behaviour[A] = Origin(lambda head: ok(head.split(b" ")[1]))
    async with await proxy.connect() as visitor:
        await visitor.send(GET_A.replace(b"/ ", b"/a ") + GET_A.replace(b"/ ", b"/b "))
        await visitor.until(b"/a")
        await visitor.until(b"/b")


async def test_bodies_go_both_ways(proxy: Proxy) -> None:
    proxy.ports.behaviour[A] = Origin(lambda request: ok(request.partition(b"\r\n\r\n")[2]))
    body = bytes(range(256)) * 40_000
    async with await proxy.connect() as visitor:
        await visitor.get(method="POST", fields=f"Content-Length: {len(body)}\r\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(visitor.send, body)
            await visitor.until(b"\r\n\r\n")
            while len(visitor.buffer) < len(body):
                visitor.buffer += await visitor.stream.receive_some(65_536)
        assert visitor.buffer == body


async def test_chunks_go_through_and_the_connection_is_kept(proxy: Proxy) -> None:
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"
    proxy.ports.behaviour[A] = Origin(lambda head: chunks)
    async with await proxy.connect() as visitor:
        for _ in range(2):
            await visitor.get()
            assert (await visitor.until(b"X-Sum: 1\r\n\r\n")).endswith(b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n")


async def test_an_answer_of_http_1_0_without_a_length_ends_with_the_connection(proxy: Proxy) -> None:
    async def behaviour(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.0 200 OK\r\n\r\nuntil the end")

    proxy.ports.behaviour[A] = behaviour
    answer = await proxy.ask(GET_A)
    assert answer == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end"


async def test_a_server_that_closes_each_connection_is_dialled_again(proxy: Proxy) -> None:
    async def behaviour(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")

    proxy.ports.behaviour[A] = behaviour
    async with await proxy.connect() as visitor:
        for _ in range(3):
            await visitor.get()
            assert b"close" not in await visitor.until(b"ok")
    assert proxy.ports.dials == [A, A, A]


async def test_a_request_that_met_a_closed_connection_is_sent_again(proxy: Proxy) -> None:
    """The server says it keeps the connection, and closes it just when the next request comes."""
    seen = []

    async def behaviour(stream: trio.SocketStream) -> None:
        seen.append(await stream.receive_some())
        await stream.send_all(ok())
        await stream.receive_some()

    proxy.ports.behaviour[A] = behaviour
    async with await proxy.connect() as visitor:
        for _ in range(3):
            await visitor.get()
            await visitor.until(b"hello")
        await visitor.get(method="POST", fields="Content-Length: 1\r\n")
        await visitor.send(b"x")
        assert status(await visitor.all()) == 502  # what has an effect is not done twice
    assert len(seen) == 3


async def test_clients_of_http_1_0(proxy: Proxy) -> None:
    origin = proxy.ports.behaviour[A] = Origin(lambda head: ok())
    answer = await proxy.ask(GET_A.replace(b"1.1", b"1.0"))
    assert answer.endswith(b"Connection: close\r\n\r\nhello")
    assert origin.heads[0].startswith(b"GET / HTTP/1.0\r\n")


async def test_head_and_no_content(proxy: Proxy) -> None:
    proxy.ports.behaviour[A] = Origin(
        lambda head: (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
            if head.startswith(b"HEAD")
            else b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"
        )
    )
    async with await proxy.connect() as visitor:
        await visitor.get(method="HEAD")
        await visitor.until(b"1000\r\n\r\n")
        await visitor.get()
        await visitor.until(b"1000\r\n\r\n")
        await visitor.get(method="HEAD")
        await visitor.until(b"1000\r\n\r\n")


async def test_expect_100_continue(proxy: Proxy) -> None:
    async def behaviour(stream: trio.SocketStream) -> None:
        visitor = Visitor(stream)
        assert b"Expect: 100-continue" in await visitor.until(b"\r\n\r\n")
        await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        await visitor.until(b"body")
        await stream.send_all(ok())

    proxy.ports.behaviour[A] = behaviour
    async with await proxy.connect() as visitor:
        await visitor.get(method="PUT", fields="Content-Length: 4\r\nExpect: 100-continue\r\n")
        assert await visitor.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await visitor.send(b"body")
        assert status(await visitor.until(b"hello")) == 200


async def test_an_early_answer_reaches_a_client_that_still_sends(proxy: Proxy) -> None:
    async def behaviour(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")

    proxy.ports.behaviour[A] = behaviour
    async with await proxy.connect() as visitor:
        await visitor.get(method="POST", fields="Content-Length: 100000000\r\n")
        assert (await visitor.all()).endswith(b"big")


async def test_events_come_as_they_are_sent_and_a_client_that_leaves_is_noticed(proxy: Proxy) -> None:
    ended = trio.Event()

    async def behaviour(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        assert not await stream.receive_some()  # the client's end comes through
        ended.set()

    proxy.ports.behaviour[A] = behaviour
    async with await proxy.connect() as visitor:
        await visitor.get()
        await visitor.until(b"data: 1\n\n")
    with trio.fail_after(5):
        await ended.wait()


async def test_an_upgrade_becomes_a_tunnel_with_half_closes(proxy: Proxy) -> None:
    async def behaviour(stream: trio.SocketStream) -> None:
        visitor = Visitor(stream)
        assert b"Connection: Upgrade\r\nUpgrade: echo\r\n" in await visitor.until(b"\r\n\r\n")
        await stream.send_all(b"HTTP/1.1 101 Switching\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\nfirst")
        data = visitor.buffer
        while chunk := await stream.receive_some():
            data += chunk
        await stream.send_all(b"you said " + data)

    proxy.ports.behaviour[A] = behaviour
    async with await proxy.connect() as visitor:
        await visitor.get(fields="Connection: Upgrade\r\nUpgrade: echo\r\n")
        assert b"Connection: Upgrade\r\nUpgrade: echo\r\n" in await visitor.until(b"first")
        await visitor.send(GET_A)  # not a request any more
        await visitor.stream.send_eof()
        assert await visitor.all() == b"you said " + GET_A


async def test_the_sandboxs_half_of_a_tunnel_may_end_first(proxy: Proxy) -> None:
    heard = []

    async def behaviour(stream: trio.SocketStream) -> None:
        await Visitor(stream).until(b"\r\n\r\n")
        await stream.send_all(b"HTTP/1.1 101 Switching\r\nUpgrade: echo\r\n\r\n")
        await stream.send_eof()
        while chunk := await stream.receive_some():
            heard.append(chunk)

    proxy.ports.behaviour[A] = behaviour
    async with await proxy.connect() as visitor:
        await visitor.get(fields="Connection: Upgrade\r\nUpgrade: echo\r\n")
        await visitor.all()
        await visitor.send(b"still here")
        await visitor.stream.send_eof()
        with trio.fail_after(5):
            while not heard:
                await trio.sleep(0.01)
    assert heard == [b"still here"]


# ---- who is told what


@pytest.mark.parametrize(
    ("reach", "code", "number"),
    [(Reach.PAUSED, "sandbox_paused", 503), (Reach.NO_SANDBOX, "sandbox_not_found", 404)],
)
async def test_sandboxes_that_cannot_be_reached(proxy: Proxy, reach: Reach, code: str, number: int) -> None:
    proxy.ports.reach[A] = reach
    answer = await proxy.ask(GET_A)
    assert status(answer) == number
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == code
    page = await proxy.ask(GET_A.replace(b"\r\n\r\n", b"\r\nAccept: text/html\r\n\r\n"))
    assert b"<!doctype html>" in page
    assert proxy.ports.dials == []


async def test_nothing_listens(proxy: Proxy) -> None:
    answer = await proxy.ask(GET_A.replace(b"\r\n\r\n", b"\r\nAccept: text/html\r\n\r\n"))
    assert status(answer) == 502
    assert b'http-equiv="refresh"' in answer
    posted = GET_A.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nAccept: text/html\r\n\r\n")
    assert b'http-equiv="refresh"' not in await proxy.ask(posted)
    assert (await proxy.ask(GET_A.replace(b"GET", b"HEAD"))).endswith(b"\r\n\r\n")


async def test_only_exposed_ports_are_dialled(proxy: Proxy) -> None:
    proxy.ports.behaviour[A] = Origin(lambda head: ok())
    answer = await proxy.ask(GET_A.replace(b"-80.", b"-81."))
    assert status(answer) == 404
    assert b"port_not_exposed" in answer
    assert status(await proxy.ask(b"GET /api/v1/sandboxes HTTP/1.1\r\nHost: localhost:8081\r\n\r\n")) == 404
    assert status(await proxy.ask(b"GET / HTTP/1.0\r\n\r\n")) == 404
    assert proxy.ports.dials == []


async def test_a_port_that_is_not_public(proxy: Proxy) -> None:
    origin = proxy.ports.behaviour[A] = Origin(lambda head: ok())
    proxy.ports.public = False
    assert status(await proxy.ask(GET_A)) == 403
    redirect = await proxy.ask(
        GET_A.replace(b"/ ", b"/a?nsbox_link=T ").replace(b"\r\n\r\n", b"\r\nAccept: text/html\r\n\r\n")
    )
    assert redirect.startswith(b"HTTP/1.1 303 See Other\r\nLocation: /a\r\nSet-Cookie: nsbox_link=T; Path=/;")
    assert origin.heads == []
    async with await proxy.connect() as visitor:
        await visitor.get("/a?nsbox_link=T&b")
        assert b"Set-Cookie: nsbox_link=T" in await visitor.until(b"hello")
        await visitor.get("/c", fields="Cookie: nsbox_link=T\r\n")
        await visitor.until(b"hello")
        await visitor.get("/d")  # each request is asked
        assert status(await visitor.all()) == 403
    assert [head.split(b" ")[1] for head in origin.heads] == [b"/a?b", b"/c"]
    assert b"nsbox_link" not in b"".join(origin.heads)


async def test_keys_stay_here(proxy: Proxy) -> None:
    origin = proxy.ports.behaviour[A] = Origin(lambda head: ok())
    async with await proxy.connect() as visitor:
        await visitor.get(fields=f"Authorization: Bearer {KEY}\r\nX-Other: 1\r\n")
        await visitor.until(b"hello")
    assert b"X-Other" in origin.heads[0]
    assert KEY.encode() not in origin.heads[0]


# ---- nothing is smuggled


async def test_a_connection_leads_to_one_sandbox_only(proxy: Proxy) -> None:
    first = proxy.ports.behaviour[A] = Origin(lambda head: ok())
    second = proxy.ports.behaviour[B] = Origin(lambda head: ok())
    async with await proxy.connect() as visitor:
        await visitor.get()
        await visitor.until(b"hello")
        await visitor.get(host=HOST_B)
        assert status(await visitor.all()) == 421
    assert (len(first.heads), second.heads, proxy.ports.dials) == (1, [], [A])


@pytest.mark.parametrize("name", REFUSED)
async def test_malformed_requests_reach_nobody(proxy: Proxy, name: str) -> None:
    origin = proxy.ports.behaviour[A] = Origin(lambda head: ok())
    data = REFUSED[name].replace(b"Host: a", f"Host: {HOST_A}".encode())
    async with await proxy.connect() as visitor:
        await visitor.send(data)
        await visitor.stream.send_eof()
        answer = await visitor.all()
    assert not answer or status(answer) in range(400, 502)
    assert origin.heads == []


@pytest.mark.parametrize("body", [b"g\r\n", b"1\r\nab", b"0\r\nHost: x\r\n\r\n", b"1\nx"])
async def test_malformed_chunks_end_the_connection(proxy: Proxy, body: bytes) -> None:
    origin = proxy.ports.behaviour[A] = Origin(lambda head: ok())
    second = GET_A.replace(b"/ ", b"/smuggled ")
    await proxy.ask(GET_A.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n") + body + second)
    assert not any(b"smuggled" in head.split(b"\r\n")[0] for head in origin.heads)


async def test_bytes_behind_a_last_request_are_not_passed_on(proxy: Proxy) -> None:
    origin = proxy.ports.behaviour[A] = Origin(lambda head: ok())
    answer = await proxy.ask(GET_A.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + GET_A)
    assert answer.count(b"HTTP/1.1") == 1
    assert len(origin.heads) == 1


@pytest.mark.parametrize(
    "extra",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"evil", b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\nevil"],
)
async def test_what_a_sandbox_says_besides_its_answers_reaches_nobody(proxy: Proxy, extra: bytes) -> None:
    """A front proxy that shares its connections would take it for the answer to somebody else's request."""
    proxy.ports.behaviour[A] = Origin(lambda head: ok() + extra)
    async with await proxy.connect() as visitor:
        for _ in range(3):
            await visitor.get()
            await visitor.until(b"hello")
        await visitor.stream.send_eof()
        assert b"evil" not in await visitor.all()


async def test_what_a_sandbox_says_between_requests_reaches_nobody(proxy: Proxy) -> None:
    async def behaviour(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(ok())
        await said.wait()
        await stream.send_all(ok(b"evil"))
        await stream.receive_some()

    said = trio.Event()
    proxy.ports.behaviour[A] = behaviour
    async with await proxy.connect() as visitor:
        await visitor.get()
        await visitor.until(b"hello")
        said.set()
        with trio.move_on_after(0.3):
            assert not await visitor.stream.receive_some()
        await visitor.get()  # over a new connection to the sandbox
        await visitor.until(b"hello")
    assert proxy.ports.dials == [A, A]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX: a\n folded\r\n\r\n", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\n\n", b"",
        b"HTTP/1.1 101 Switching\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 50, b"X" * 70_000,
    ],
)  # fmt: skip
async def test_answers_that_cannot_be_read(proxy: Proxy, answer: bytes) -> None:
    async def behaviour(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)

    proxy.ports.behaviour[A] = behaviour
    told = await proxy.ask(GET_A)
    assert b" 502 Bad Gateway\r\n" in told
    assert b"bad_answer" in told


async def test_an_answer_that_is_cut_off_is_cut_off_for_the_visitor(proxy: Proxy) -> None:
    async def behaviour(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    proxy.ports.behaviour[A] = behaviour
    assert (await proxy.ask(GET_A)).endswith(b"half")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(
            [
                GET_A,
                b"GET / HTTP/1.1\r\n",
                f"Host: {HOST_A}\r\n".encode(),
                b"\r\n",
                b"\n",
                b"\x00",
                b"0\r\n\r\n",
                b"Transfer-Encoding: chunked\r\n",
                b"Content-Length: 3\r\n",
                b"abc",
                b"Upgrade: x\r\n",
                b"\xff\xfe",
                b"Connection: upgrade\r\n",
                b"HTTP/1.1 200 OK\r\n\r\n",
                f"Host: {HOST_B}\r\n".encode(),
                b" ",
                b":",
            ]
        ),
        max_size=12,
    )
)
def test_whatever_comes_the_proxy_lives(pieces: list[bytes]) -> None:
    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            proxy = Proxy(nursery)
            await nursery.start(proxy.run)
            origin = proxy.ports.behaviour[A] = Origin(lambda head: ok())
            proxy.ports.behaviour[B] = Origin(lambda head: ok(b"from b"))
            async with await proxy.connect() as visitor:
                try:
                    await visitor.send(b"".join(pieces))
                    await visitor.stream.send_eof()
                except trio.BrokenResourceError:
                    pass
                answer = await visitor.all()
            if origin.heads:
                assert b"from b" not in answer
            assert not answer or status(answer) < 502
            assert (await proxy.ask(GET_A.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))).endswith(
                b"hello"
            )
            nursery.cancel_scope.cancel()

    trio.run(scenario)


# ---- bounds


async def bounded(nursery: trio.Nursery, **bounds: float) -> Proxy:
    one = Proxy(nursery, **bounds)
    await nursery.start(one.run)
    return one


@pytest.mark.parametrize("data", [b"", b"GET / HT", GET_A[:-2]])
async def test_slow_heads_are_cut(nursery: trio.Nursery, data: bytes) -> None:
    proxy = await bounded(nursery, head_s=0.3)
    assert await proxy.ask(data) == b""


async def test_idle_connections_are_closed(nursery: trio.Nursery) -> None:
    proxy = await bounded(nursery, keep_alive_s=0.3)
    proxy.ports.behaviour[A] = Origin(lambda head: ok())
    assert (await proxy.ask(GET_A)).endswith(b"hello")


async def test_a_silent_exchange_ends(nursery: trio.Nursery) -> None:
    proxy = await bounded(nursery, idle_s=0.3)

    async def behaviour(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await trio.sleep_forever()

    proxy.ports.behaviour[A] = behaviour
    assert await proxy.ask(GET_A) == b""


async def test_readers_that_stall_are_cut_and_held_memory_is_given_back(nursery: trio.Nursery) -> None:
    proxy = await bounded(nursery, stall_s=0.5)
    proxy.ports.behaviour[A] = Origin(lambda head: ok(bytes(64 << 20)))
    async with await proxy.connect() as visitor:
        await visitor.get()
        with trio.fail_after(10):
            while not proxy.edge.held.bytes:
                await trio.sleep(0.01)
            assert proxy.edge.held.bytes <= 256 * 1024
            while proxy.edge.held.bytes:
                await trio.sleep(0.01)


async def test_too_many_for_one_sandbox(nursery: trio.Nursery) -> None:
    proxy = await bounded(nursery, sandbox_connections=1)
    proxy.ports.behaviour[A] = proxy.ports.behaviour[B] = Origin(lambda head: ok())
    async with await proxy.connect() as first:
        await first.get()
        await first.until(b"hello")
        assert status(await proxy.ask(GET_A)) == 503
        async with await proxy.connect() as other:
            await other.get(host=HOST_B)
            await other.until(b"hello")


async def test_at_the_cap_the_longest_idle_goes(nursery: trio.Nursery) -> None:
    proxy = await bounded(nursery, connections=2)
    proxy.ports.behaviour[A] = Origin(lambda head: ok())
    async with await proxy.connect() as first, await proxy.connect() as second:
        for visitor in (first, second):
            await visitor.get()
            await visitor.until(b"hello")
        async with await proxy.connect() as third:
            await third.get()
            await third.until(b"hello")
            gone = await first.all() == b""
            assert gone


async def test_a_visitor_has_a_share_of_the_places(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "LOOPBACK", ())
    proxy = await bounded(nursery, address_connections=2)
    proxy.ports.behaviour[A] = Origin(lambda head: ok())

    async def connect(address: str) -> Visitor:
        return Visitor(await trio.open_tcp_stream(*proxy.address, local_address=address))

    async with await connect("127.0.0.2") as other, await connect("127.0.0.1") as first:
        for visitor in (other, first):
            await visitor.get()
            await visitor.until(b"hello")
        async with await connect("127.0.0.1") as second, await connect("127.0.0.1") as third:
            await third.get()
            await third.until(b"hello")
            assert await first.all() == b"" or await second.all() == b""
            await other.get()
            await other.until(b"hello")
            async with await connect("127.0.0.2") as another:
                await another.get()
                await another.until(b"hello")
    with trio.fail_after(10):
        while len(proxy.edge.shares):
            await trio.sleep(0.01)


async def test_a_port_that_is_taken_away_loses_its_connections(nursery: trio.Nursery) -> None:
    proxy = await bounded(nursery, keep_alive_s=600)
    proxy.ports.behaviour[A] = Origin(lambda head: ok())
    async with await proxy.connect() as visitor:
        await visitor.get()
        await visitor.until(b"hello")
        proxy.ports.reach[A] = Reach.NOT_EXPOSED
        changed, proxy.ports.changed = proxy.ports.changed, trio.Event()
        changed.set()
        assert await visitor.all() == b""


async def test_the_end_waits_for_requests_and_not_for_ever(nursery: trio.Nursery) -> None:
    proxy = await bounded(nursery, grace_s=0.5)
    go = trio.Event()

    async def behaviour(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await go.wait()
        await stream.send_all(ok())
        await trio.sleep_forever()

    proxy.ports.behaviour[A] = behaviour
    async with await proxy.connect() as busy, await proxy.connect() as idle, await proxy.connect() as stuck:
        await busy.get()
        while not proxy.ports.dials:
            await trio.sleep(0.01)
        await stuck.get(method="POST", fields="Content-Length: 9\r\n")
        proxy.scope.cancel()
        assert await idle.all() == b""
        go.set()
        assert (await busy.until(b"hello")).startswith(b"HTTP/1.1 200")
        with trio.fail_after(5):
            await proxy.stopped.wait()
            await stuck.all()


async def test_the_end_does_not_wait_for_tunnels(nursery: trio.Nursery) -> None:
    proxy = await bounded(nursery, grace_s=60)

    async def behaviour(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 101 Switching\r\nUpgrade: echo\r\n\r\n")
        await stream.receive_some()

    proxy.ports.behaviour[A] = behaviour
    async with await proxy.connect() as visitor:
        await visitor.get(fields="Connection: Upgrade\r\nUpgrade: echo\r\n")
        await visitor.until(b"\r\n\r\n")
        proxy.scope.cancel()
        with trio.fail_after(5):
            await proxy.stopped.wait()


async def test_an_init_that_makes_its_sockets_wait_holds_nobody_up(proxy: Proxy) -> None:
    """O_NONBLOCK is shared with whoever keeps a duplicate: it is never relied on."""
    proxy.ports.tamper = lambda sock: sock.setblocking(True)

    async def behaviour(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    proxy.ports.behaviour[A] = behaviour
    proxy.ports.behaviour[B] = Origin(lambda head: ok())
    async with await proxy.connect() as stuck, await proxy.connect() as visitor:
        await stuck.get(method="POST", fields="Content-Length: 100000000\r\n")
        async with trio.open_nursery() as sending:
            sending.start_soon(stuck.send, bytes(100_000_000))
            while proxy.ports.dials != [A]:
                await trio.sleep(0.01)
            with trio.fail_after(5):
                await visitor.get(host=HOST_B)
                await visitor.until(b"hello")
            sending.cancel_scope.cancel()


async def test_a_client_that_floods_us_while_it_is_answered_holds_nobody_up(proxy: Proxy) -> None:
    async def behaviour(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await trio.sleep_forever()

    proxy.ports.behaviour[A] = behaviour
    proxy.ports.behaviour[B] = Origin(lambda head: ok())
    async with await proxy.connect() as flood, await proxy.connect() as visitor:
        await flood.get(fields="Connection: close\r\n")
        async with trio.open_nursery() as sending:
            sending.start_soon(flood.send, bytes(1_000_000_000))
            with trio.fail_after(5):
                await visitor.get(host=HOST_B)
                await visitor.until(b"hello")
            sending.cancel_scope.cancel()


async def test_a_lingering_socket_does_not_hold_up_close(nursery: trio.Nursery) -> None:
    """With SO_LINGER, close(2) waits for what was sent to be taken: here for 20 s, and the loop with it."""
    proxy = await bounded(nursery, idle_s=0.5)

    def tamper(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 20))

    proxy.ports.tamper = tamper

    async def behaviour(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    proxy.ports.behaviour[A] = behaviour
    begun = time.monotonic()
    async with await proxy.connect() as stuck:
        await stuck.get(method="POST", fields="Content-Length: 100000000\r\n")
        with trio.move_on_after(0.5):
            try:
                await stuck.send(bytes(100_000_000))
            except trio.BrokenResourceError:
                pass  # it has been silent for too long already
    while proxy.edge.counts:
        await trio.sleep(0.01)
    assert time.monotonic() - begun < 10
