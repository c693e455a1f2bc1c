"""What sockets do: silence, refusals in the middle of an upload, certificates, connections that are kept."""

from __future__ import annotations

import io
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from nsbox.client import (
    AsyncClient,
    Client,
    InvalidRequest,
    NsboxError,
    Retries,
    TimedOut,
    Unreachable,
    Untrusted,
)
from nsbox.client.call import Request
from tests.registries.certificates import Authority
from tests.unit.client.fakes import KEY, RESULT, SANDBOX, document, problem
from tests.unit.client.server import CuttingServer, cutting

ONCE = Retries(patience=0)


@contextmanager
def silent() -> Iterator[str]:
    """It takes connections, and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_silence_has_an_end() -> None:
    with (
        silent() as url,
        Client(url, KEY, retries=ONCE) as nsbox,
        pytest.raises(TimedOut, match="no answer from"),
    ):
        nsbox._driver.ask(Request("GET", "/x", timeout=0.05))


async def test_silence_has_an_end_for_tasks() -> None:
    with silent() as url:
        async with AsyncClient(url, KEY, retries=ONCE) as nsbox:
            with pytest.raises(TimedOut, match="no answer from"):
                await nsbox._driver.ask(Request("GET", "/x", timeout=0.05))


def test_connections_are_kept() -> None:
    with cutting(lambda _: document([SANDBOX])) as server, Client(server.url, KEY) as nsbox:
        for _ in range(5):
            nsbox.list()
        assert len(server._threads) == 2, "the listener's, and one connection's"


def test_a_connection_that_the_server_closed_is_not_used() -> None:
    """Not even for what may not be asked twice."""

    def reply(_: object) -> bytes:
        return document({"id": "key_1", "name": "n", "key": "k"})

    with cutting(reply) as server, Client(server.url, KEY, retries=ONCE) as nsbox:
        nsbox.keys.create("n")
        for connection in list(server._open):
            connection.shutdown(socket.SHUT_RDWR)
        for thread in server._threads[1:]:
            thread.join(10)
        nsbox.keys.create("n")
        assert len(server.seen) == 2


@contextmanager
def refusing() -> Iterator[str]:
    """It reads a little of an upload, says no, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(1000)
                        connection.sendall(problem(413, "body_too_large", "too large"))
                        connection.shutdown(socket.SHUT_WR)
                        while connection.recv(1 << 16):
                            pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def test_a_refusal_in_the_middle_of_an_upload_is_told() -> None:
    with refusing() as url, Client(url, KEY, retries=ONCE) as nsbox:
        for content in (b"x" * 5_000_000, io.BytesIO(b"x" * 5_000_000), (b"x" * 1000 for _ in range(5000))):
            with pytest.raises(InvalidRequest, match="too large"):
                nsbox.sandbox("sb_1").files.write("/f", content)


async def test_the_same_for_tasks() -> None:
    with refusing() as url:
        async with AsyncClient(url, KEY, retries=ONCE) as nsbox:
            with pytest.raises(InvalidRequest, match="too large"):
                await nsbox.sandbox("sb_1").files.write("/f", b"x" * 5_000_000)


class SecureServer(CuttingServer):
    """The same, behind TLS."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(lambda _: document(RESULT))
        self.url = self.url.replace("http:", "https:")

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            super()._serve(self._context.wrap_socket(connection, server_side=True))
        connection.close()


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[SecureServer, ssl.SSLContext]]:
    """A server, and whom to trust to trust it."""
    authority = Authority(tmp_path)
    server = SecureServer(authority.server())
    try:
        trust = ssl.create_default_context(cafile=str(authority.ca_file))
        # Python 3.13 wants more of a CA's certificate than the tests' own has.
        trust.verify_flags &= ~ssl.VERIFY_X509_STRICT
        yield server, trust
    finally:
        server.close()


def test_a_certificate_that_is_trusted_and_one_that_is_not(
    secure: tuple[SecureServer, ssl.SSLContext],
) -> None:
    server, trust = secure
    with Client(server.url, KEY, ssl_context=trust) as nsbox:
        assert [nsbox.sandbox("sb_1").exec("x").stdout for _ in range(3)] == ["out"] * 3
    with Client(server.url, KEY) as nsbox, pytest.raises(Untrusted, match=r"not trusted: \w+"):
        nsbox.sandbox("sb_1").exec("x")  # at once, whatever the patience is
    assert len(server.seen) == 3


async def test_certificates_for_tasks(secure: tuple[SecureServer, ssl.SSLContext]) -> None:
    server, trust = secure
    async with AsyncClient(server.url, KEY, ssl_context=trust) as nsbox:
        assert (await nsbox.sandbox("sb_1").exec("x")).stdout == "out"
    async with AsyncClient(server.url, KEY) as nsbox:
        with pytest.raises(Untrusted, match=r"not trusted: \w+"):
            await nsbox.sandbox("sb_1").exec("x")


async def test_nobody_there_for_tasks() -> None:
    async with AsyncClient("http://127.0.0.1:1", KEY, retries=ONCE) as nsbox:
        with pytest.raises(Unreachable, match="cannot be reached"):
            await nsbox.list()


def test_a_closed_client() -> None:
    nsbox = Client("http://127.0.0.1:1", KEY)
    nsbox.close()
    with pytest.raises(NsboxError, match="is closed"):
        nsbox.list()
