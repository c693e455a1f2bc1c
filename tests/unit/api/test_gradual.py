"""JSON that is sent while it is made is the JSON that it would be whole."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import h11
import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from nsbox.api import views
from nsbox.api.exchange import Exchange
from nsbox.api.gradual import Gradual
from nsbox.model.errors import Code, Problem
from nsbox.model.sandbox import CommandResult, Encoding, Listing, Outcome, Output
from nsbox.settings import Settings
from tests.unit.api.client import Server, head, running
from tests.unit.api.fakes import OTHER_KEY, FakeFile

_PATH = "/files?path=/large"
#: What JSON escapes, what is not UTF-8, and characters of two, three and four bytes.
_BYTES = st.lists(
    st.sampled_from([b"a", b'"', b"\\", b"\0", b"\n", b"\x7f", b"\xff", b"\xed\xa0\x80", "é€🎉".encode()])
    | st.binary(max_size=9)
).map(b"".join)


class Held:
    """A ``Source`` of a test: pieces that are cut anywhere."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = [piece for piece in pieces if piece]
        self.error: Exception | None = None
        self.closed = False

    async def next(self) -> bytes:
        if not self.pieces and self.error is not None:
            raise self.error
        return self.pieces.pop(0) if self.pieces else b""

    def close(self) -> None:
        self.closed = True


def pieces(data: bytes, most: int = 50_000) -> list[bytes]:
    return [data[start : start + most] for start in range(0, len(data), most)]


async def gathered(data: list[bytes], encoding: Encoding) -> tuple[bytes, list[dict[str, Any]]]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    exchange = Exchange({"type": "http", "headers": []}, receive, send)
    await exchange.read(0)
    answer = Gradual(exchange)
    await answer.write(b'{"text":')
    await answer.write_text(Held(data).next, encoding)
    await answer.write_rest({"end": 1})
    return b"".join(message.get("body", b"") for message in sent), sent


@given(data=_BYTES, cuts=st.lists(st.integers(0, 60)), encoding=st.sampled_from(Encoding))
def test_however_it_is_cut(data: bytes, cuts: list[int], encoding: Encoding) -> None:
    places = sorted({0, *(min(cut, len(data)) for cut in cuts), len(data)})
    cut = [data[start:end] for start, end in pairwise(places)]
    body, sent = trio.run(gathered, cut, encoding)
    assert body == msgspec.json.encode({"text": views._output(data, encoding), "end": 1})
    assert any(name == b"content-length" for name, _ in sent[0]["headers"])  # it is short


@contextmanager
def raises_cut() -> Iterator[None]:
    """The answer is not complete, and that is seen. The client has a nursery around it."""
    cut = False
    try:
        yield
    except* h11.RemoteProtocolError:
        cut = True
    assert cut


def result(stdout: Any, stderr: Any = b"") -> CommandResult:
    def output(of: Any) -> Output:
        return Output(of) if isinstance(of, bytes) else Output(b"", True, of)

    return CommandResult(
        outcome=Outcome.EXITED, stdout=output(stdout), stderr=output(stderr), duration_ms=1, exit_code=3
    )


async def execute(server: Server, encoding: str = "utf8") -> Any:
    path = f"/sandboxes/{await server.sandbox()}/exec"
    return await server.ask("POST", path, {"command": "x", "encoding": encoding})


@pytest.mark.parametrize("encoding", ["utf8", "base64"])
@pytest.mark.parametrize("data", [b"\0\xff\xc3\xa9" * 100_000, b"x"])
async def test_a_large_result_is_as_a_small_one(data: bytes, encoding: str) -> None:
    async with running() as server:
        out, err = Held(pieces(data)), Held([])
        server.fakes.commands.result = result(out, err)
        answer = await execute(server, encoding)
        assert answer.status == 200
        assert ("transfer-encoding" in answer.headers) is (len(data) > 1)
        whole = result(data, b"")
        shown = msgspec.json.decode(msgspec.json.encode(views.result(whole, Encoding(encoding))))
        told = answer.json()
        assert list(told) == list(shown)
        assert told == shown | {"truncated": True, "stdoutTruncated": True, "stderrTruncated": True}
        with trio.fail_after(10):  # the client may be told before
            while not (out.closed and err.closed):
                await trio.sleep(0.01)


async def test_output_that_is_gone_meanwhile_breaks_the_answer_off() -> None:
    """Never a part that looks like the whole."""
    async with running() as server:
        held = Held([b"x" * 100_000])
        held.error = Problem(Code.RANGE_NOT_SATISFIABLE, "gone")
        server.fakes.commands.result = result(held)
        with raises_cut():
            await execute(server)


async def test_who_does_not_read_has_a_piece_and_no_more() -> None:
    """The output is read as the client takes it: of a hundred mebibytes, what the sockets hold."""

    class Endless(Held):
        given = 0

        async def next(self) -> bytes:
            self.given += 1
            return bytes(65_536)  # 384 KiB of JSON

    async with running() as server:
        held = Endless([])
        server.fakes.commands.result = result(held)
        path = f"/sandboxes/{await server.sandbox()}/exec"
        body = json.dumps({"command": "x"}).encode()
        sent = head("POST", path, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        async with await server.connect() as stream:
            await stream.send_all(sent + body)
            await stream.receive_some(1)
            before = -1
            tracemalloc.start()
            with trio.fail_after(60):
                while before != held.given:  # until the sockets are full
                    before = held.given
                    await trio.sleep(0.5)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert held.given < 300
        assert peak < 8 << 20


@pytest.mark.parametrize("encoding", [None, "utf8", "base64"])
@pytest.mark.parametrize(
    "data",
    [
        "é".encode() * 100_000,
        b"x" + "é".encode() * 100_000,  # characters lie across pieces
        b"\xff" * 70_001,
        b"a" * 200_000 + b"\xc3",
        b"a" * 65_536,
        b"a" * 65_537,
    ],
)
async def test_a_large_file_is_as_a_small_one(data: bytes, encoding: str | None) -> None:
    async with running() as server:
        target = f"/sandboxes/{await server.sandbox()}{_PATH}"
        server.fakes.files.files[b"/large"] = data
        wanted = "" if encoding is None else f"&encoding={encoding}"
        answer = await server.ask("GET", target + wanted)
        assert answer.status == 200
        told = views.file_content(b"/large", data, None if encoding is None else Encoding(encoding))
        assert answer.body == msgspec.json.encode(told)
        assert (await server.ask("HEAD", target + wanted)).body == b""


@pytest.mark.parametrize("known", [True, False])
async def test_a_file_has_so_many_bytes_in_json(known: bool) -> None:
    async with running(Settings(max_json_file_bytes=100_000)) as server:
        target = f"/sandboxes/{await server.sandbox()}{_PATH}"
        for size, status in ((100_000, 200), (100_001, 413)):
            server.fakes.files.opened = FakeFile(b"x" * size, 0.0, None if known else 0)
            answer = await server.ask("GET", target)
            assert answer.status == status, answer
            if status == 413:
                assert answer.code == "file_too_large"


@pytest.mark.parametrize(("fine", "broken"), [(6, False), (8, True)])
async def test_a_file_that_is_no_text_any_more(fine: int, broken: bool) -> None:
    """Once the answer has begun it breaks off; before, there is a word for it."""

    class Changed(FakeFile):
        async def read_at(self, offset: int, n: int) -> bytes:
            if self.reads >= fine:  # once for its beginning, five times to look through it
                self.data = b"\xff" * len(self.data)
            return await super().read_at(offset, n)

    async with running() as server:
        target = f"/sandboxes/{await server.sandbox()}{_PATH}"
        server.fakes.files.opened = Changed(b"x" * 200_000, 0.0)
        if broken:
            with raises_cut():
                await server.ask("GET", target)
        else:
            answer = await server.ask("GET", target)
            assert (answer.status, answer.code) == (409, "file_operation_failed")


@pytest.mark.parametrize("count", [0, 1, 3_000])
async def test_a_folder_however_large(count: int) -> None:
    async with running() as server:
        (one,) = server.fakes.files.listing.entries
        names = [f"file {number} \udcff" for number in range(count)]
        entries = [msgspec.structs.replace(one, name=name, path=f"/app/{name}") for name in names]
        server.fakes.files.listing = Listing(entries, count > 1)
        path = f"/sandboxes/{await server.sandbox()}/files?path=/app&list=true"
        answer = await server.ask("GET", path)
        assert ("transfer-encoding" in answer.headers) is (count > 1)
        assert answer.json() == {
            "path": "/app",
            "files": [views.entry_name(entry) for entry in entries],
            "entries": [json.loads(msgspec.json.encode(views.entry(entry))) for entry in entries],
            "truncated": count > 1,
        }
        refused = await server.ask("POST", path)
        assert (refused.status, refused.code) == (405, "method_not_allowed")
        assert set(refused.json()["allowed"]) == {"GET", "HEAD", "PUT", "DELETE"}


async def test_a_user_has_so_many_listings_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing is held while it is taken. Who asks for more waits, and nobody else does."""
    at_work, most = 0, 0

    async with running() as server:
        mine, hers = await server.sandbox(), await server.ask("POST", "/sandboxes", key=OTHER_KEY)
        listing, go = server.fakes.files.listing, trio.Event()

        async def slowly(owner: str, sandbox_id: str, path: bytes, recursive: bool) -> Listing:
            nonlocal at_work, most
            if sandbox_id == mine:
                at_work += 1
                most = max(most, at_work)
                await go.wait()
                at_work -= 1
            return listing

        monkeypatch.setattr(server.fakes.files, "list", slowly)
        async with trio.open_nursery() as nursery:
            for _ in range(9):
                nursery.start_soon(server.ask, "GET", f"/sandboxes/{mine}/files?path=/&list=true")
            with trio.fail_after(10):
                while at_work < 4:
                    await trio.sleep(0.01)
            target = f"/sandboxes/{hers.json()['id']}/files?path=/&list=true"
            assert (await server.ask("GET", target, key=OTHER_KEY)).status == 200
            go.set()
        assert (most, at_work) == (4, 0)
