from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socket import create_server

import pytest

from nsbox.cli.client import Answer, Client, target
from nsbox.model.errors import HostProblem


@contextmanager
def server(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Answers one request with these bytes."""
    seen: list[bytes] = []
    with create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                seen.append(connection.recv(65536))
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen
        thread.join(10)


def test_a_request_and_its_answer():
    reply = b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}'
    with server(reply) as (url, seen), Client(url, "k") as client:
        answer = client.request("GET", "/x y", query={"path": "/app/é"})
    assert (answer.status, answer.body, answer.ok) == (200, {"a": 1}, True)
    assert seen[0].startswith(b"GET /api/v1/x%20y?path=/app/%C3%A9 HTTP/1.1\r\n")
    assert b"Authorization: Bearer k\r\n" in seen[0]


@pytest.mark.parametrize(
    "answer", [b"rubbish\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"]
)
def test_no_answer_is_a_host_problem(answer):
    with (
        server(answer) as (url, _),
        Client(url, "k") as client,
        pytest.raises(HostProblem, match="no answer from"),
    ):
        client.request("GET", "/x")


@pytest.mark.parametrize("size", [32 << 20, None])
def test_an_upload_that_is_refused_half_way(size):
    """What the daemon says of it counts, not that it takes no more."""
    reply = b'HTTP/1.1 503 Full\r\nContent-Length: 17\r\nConnection: close\r\n\r\n{"detail":"full"}'
    with server(reply) as (url, _), Client(url, "k") as client:
        answer = client.upload("/images/import", iter([bytes(1 << 20)] * 32), size)
    assert (answer.status, answer.body) == (503, {"detail": "full"})


def test_an_address_with_the_prefix_is_taken_too():
    with Client("http://h:1/api/v1/", "k") as client:
        assert client.url == "http://h:1/api/v1"


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "h:1"])
def test_what_is_no_address(url):
    with pytest.raises(HostProblem, match="not the address"):
        Client(url, "k")


def test_errors_in_the_daemons_words():
    assert Answer(409, {"detail": "no", "remedy": "wait"}, 1).explain() == "no; wait (HTTP 409)"
    assert Answer(502, None, 1).explain() == "HTTP 502"
    assert Answer(502, [], 1).explain() == "HTTP 502"


def test_target():
    assert target("/a", {"path": "/b&c", "list": "true"}) == "/a?path=/b%26c&list=true"
