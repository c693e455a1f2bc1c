"""Every answer is broken off at every byte. What is safe is whole and right in the end and was done once;
what is not safe is asked for once, and its loss is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsbox.client import AsyncClient, Client, ConnectionLost, Dropped, Exited, Output, Retries, Started
from nsbox.client.types import CommandEvent
from tests.unit.client.fakes import KEY, PROCESS, RESULT, SANDBOX, Chunk, document, log
from tests.unit.client.server import Seen, answer, cutting

#: No pauses: what is tried again is tried at once.
EAGER = Retries(first=0.0, longest=0.0)
CHUNKS: list[Chunk] = [
    ("stdout", b"one\n"),
    ("stderr", b"two\xc3"),
    ("stdout", b"\xe2\x82"),
    ("stdout", b"\xac"),
]


def client(url: str) -> Client:
    return Client(url, KEY, retries=EAGER)


def async_client(url: str) -> AsyncClient:
    return AsyncClient(url, KEY, retries=EAGER)


def keys_of(seen: list[Seen]) -> set[str]:
    return {one.headers["idempotency-key"] for one in seen}


@pytest.mark.parametrize("chunked", [False, True])
def test_a_command_is_run_once_wherever_its_answer_is_cut(chunked: bool) -> None:
    whole = document(RESULT, chunked=chunked)
    with cutting(lambda _: whole) as server, client(server.url) as nsbox:
        for cut in range(len(whole)):
            server.cuts, begun = [cut], len(server.seen)
            result = nsbox.sandbox("sb_1").exec("x")
            assert (result.stdout, result.exit_code) == ("out", 0)
            asked = server.seen[begun:]
            # The whole body and the word that it is the last of it: what is missing then is empty lines.
            enough = chunked and cut >= whole.rindex(b"\r\n0") + 3
            assert len(asked) == (1 if enough else 2), cut
            assert asked[0].body == asked[-1].body
            assert len(keys_of(asked)) == 1
        assert len(keys_of(server.seen)) == len(whole), "each command has a key of its own"


async def test_the_same_for_tasks() -> None:
    whole = document(RESULT, chunked=True)
    with cutting(lambda _: whole) as server:
        async with async_client(server.url) as nsbox:
            for cut in range(len(whole)):
                server.cuts, begun = [cut], len(server.seen)
                assert (await nsbox.sandbox("sb_1").exec("x")).stdout == "out"
                assert len(server.seen) - begun == 2, cut
                assert len(keys_of(server.seen[begun:])) == 1


UNSAFE: dict[str, Callable[[Client], Any]] = {
    "snapshot": lambda nsbox: nsbox.sandbox("sb_1").snapshot(),
    "fork": lambda nsbox: nsbox.sandbox("sb_1").fork(),
    "key": lambda nsbox: nsbox.keys.create("k"),
    "user": lambda nsbox: nsbox.users.create("u"),
    "build": lambda nsbox: nsbox.templates.build("t", "i"),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_what_is_not_safe_is_asked_for_once(name: str) -> None:
    with cutting(lambda _: document({})) as server, client(server.url) as nsbox:
        for cut in (0, 10, len(document({})) - 1):
            server.cuts, begun = [cut], len(server.seen)
            with pytest.raises(ConnectionLost):
                UNSAFE[name](nsbox)
            assert len(server.seen) - begun == 1, cut


def test_signals_and_input_are_sent_once() -> None:
    def reply(seen: Seen) -> bytes:
        return document(PROCESS)

    with cutting(reply) as server, client(server.url) as nsbox:
        process = nsbox.sandbox("sb_1").processes.get("cmd_1")
        for act in (lambda: process.signal("TERM"), lambda: process.write(b"x")):
            server.cuts, begun = [20], len(server.seen)
            with pytest.raises(ConnectionLost):
                act()
            assert len(server.seen) - begun == 1


def test_what_was_removed_before_the_answer_was_lost_is_removed() -> None:
    whole = document({"path": "/a", "deleted": True})
    gone = document({"code": "file_not_found", "detail": "no", "status": 404}, 404)

    def reply(seen: Seen) -> bytes:
        return whole if len(server.seen) == 1 else gone

    with cutting(reply, [5]) as server, client(server.url) as nsbox:
        assert nsbox.sandbox("sb_1").files.remove("/a").path == "/a"
    with cutting(lambda _: gone) as server, client(server.url) as nsbox, pytest.raises(Exception, match="no"):
        nsbox.sandbox("sb_1").files.remove("/a")


# ---- output


def check_output(events: list[CommandEvent], chunks: list[Chunk]) -> None:
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Exited)
    assert events[-1].process.exit_code == 7
    outputs = [one for one in events if isinstance(one, Output)]
    assert len(outputs) == len(events) - 2
    for stream in ("stdout", "stderr"):
        wanted = b"".join(data for name, data in chunks if name == stream)
        assert b"".join(one.data for one in outputs if one.stream == stream) == wanted
        text = "".join(one.text for one in outputs if one.stream == stream)
        assert text == wanted.decode("utf-8", "replace")
    position = 0
    for one in outputs:
        assert one.offset == position, "in the order it came, without a gap and without a double"
        position += len(one.data)


def test_output_is_whole_wherever_the_stream_is_cut() -> None:
    reply = log(CHUNKS)
    whole = reply(Seen("POST", "/", {}, b""))
    with cutting(reply) as server, client(server.url) as nsbox:
        for cut in range(len(whole)):
            server.cuts, begun = [cut], len(server.seen)
            check_output(list(nsbox.sandbox("sb_1").stream("x")), CHUNKS)
            first, *more = server.seen[begun:]
            # The last event may be there before the end of the answer is.
            assert len(more) == (0 if cut > whole.rindex(b"\n\n") + 1 else 1), cut
            for again in more:
                if again.method == "POST":
                    assert again.headers["idempotency-key"] == first.headers["idempotency-key"]
                else:
                    assert again.path == "/api/v1/sandboxes/sb_1/processes/cmd_1/logs"


async def test_output_is_whole_for_tasks() -> None:
    reply = log(CHUNKS)
    whole = reply(Seen("POST", "/", {}, b""))
    with cutting(reply) as server:
        async with async_client(server.url) as nsbox:
            for cut in range(len(whole)):
                server.cuts = [cut]
                async with nsbox.sandbox("sb_1").stream("x") as stream:
                    check_output([event async for event in stream], CHUNKS)


def test_output_starts_nothing_and_asks_for_nothing_twice() -> None:
    """What was taken is told, so that nsbox need not send it again; and a log starts no command."""
    reply = log(CHUNKS)
    whole = reply(Seen("POST", "/", {}, b""))
    with cutting(reply, [whole.index(b"id: 8")]) as server, client(server.url) as nsbox:
        check_output(list(nsbox.sandbox("sb_1").stream("x")), CHUNKS)
    assert [one.method for one in server.seen] == ["POST", "GET"]
    assert "last-event-id" not in server.seen[0].headers
    assert server.seen[1].headers["last-event-id"] == "4"


def test_output_that_comes_again_is_cut_off() -> None:
    """From a server that does not heed where to go on, or a proxy that answers from what it has kept."""
    reply = log(CHUNKS)

    def forgetful(seen: Seen) -> bytes:
        return reply(seen._replace(headers={}))

    whole = forgetful(Seen("POST", "/", {}, b""))
    with cutting(forgetful) as server, client(server.url) as nsbox:
        for cut in range(0, len(whole), 9):
            server.cuts = [cut]
            check_output(list(nsbox.sandbox("sb_1").stream("x")), CHUNKS)


@settings(max_examples=60)
@given(
    chunks=st.lists(
        st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(min_size=1, max_size=30)), max_size=6
    ),
    cuts=st.lists(st.integers(0, 900), max_size=6),
)
def test_output_is_whole_however_often_it_is_cut(chunks: list[Chunk], cuts: list[int]) -> None:
    with cutting(log(chunks), list(cuts)) as server, client(server.url) as nsbox:
        check_output(list(nsbox.sandbox("sb_1").stream("x")), chunks)


def test_bytes_that_are_kept_no_longer_are_told() -> None:
    told = (
        b'event: started\ndata: %s\n\nevent: dropped\ndata: {"offset": 0, "until": 4}\n\n'
        b'id: 6\nevent: stdout\ndata: {"offset": 4, "data": "YWI="}\n\nevent: exit\ndata: %s\n\n'
    ) % ((json.dumps(PROCESS).encode(),) * 2)
    with (
        cutting(lambda _: answer(told, 200, "text/event-stream")) as server,
        client(server.url) as nsbox,
    ):
        events = list(nsbox.sandbox("sb_1").stream("x"))
    assert events[1:3] == [Dropped(0, 4), Output("stdout", 4, b"ab", "ab")]


# ---- files

CONTENT = bytes(range(64)) * 2
REST = {"last_modified": "Mon, 23 Nov 2026 07:29:35 GMT", "date": "Mon, 23 Nov 2026 08:29:35 GMT"}
JUST_NOW = {**REST, "date": "Mon, 23 Nov 2026 07:29:35 GMT"}


def file_reply(headers: dict[str, str], heeds: bool = True) -> Callable[[Seen], bytes]:
    def reply(seen: Seen) -> bytes:
        wanted = seen.headers.get("range")
        if wanted is None or not heeds:
            return answer(CONTENT, 200, "application/octet-stream", **headers)
        assert seen.headers["if-range"] == headers["last_modified"]
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        part = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        return answer(CONTENT[start:], 206, "application/octet-stream", content_range=part, **headers)

    return reply


def test_a_file_is_gone_on_with_where_it_was_cut() -> None:
    whole = file_reply(REST)(Seen("GET", "/", {}, b""))
    with cutting(file_reply(REST)) as server, client(server.url) as nsbox:
        for cut in range(len(whole)):
            server.cuts = [cut]
            assert nsbox.sandbox("sb_1").files.read("/f") == CONTENT, cut
        assert any("range" in one.headers for one in server.seen)


@pytest.mark.parametrize(("headers", "heeds"), [(JUST_NOW, True), (REST, False), ({}, True)])
def test_a_file_that_may_be_another_is_not_mixed(headers: dict[str, str], heeds: bool, tmp_path: Any) -> None:
    """Streams end with an error; a file on disk is begun anew."""
    reply = file_reply(headers, heeds)
    whole = reply(Seen("GET", "/", {}, b""))
    with cutting(reply) as server, client(server.url) as nsbox:
        files = nsbox.sandbox("sb_1").files
        for cut in range(len(whole)):
            server.cuts = [cut]
            told: list[tuple[int, int | None]] = []
            count = files.download(
                "/f", tmp_path / "f", progress=lambda *so_far, told=told: told.append(so_far)
            )
            assert count == len(CONTENT)
            assert (tmp_path / "f").read_bytes() == CONTENT, cut
            assert told[-1] == (len(CONTENT), len(CONTENT))
        server.cuts = [len(whole) - 1]
        with pytest.raises(Exception, match=r"missing|another file"):
            files.read("/f")


def test_a_file_that_changed_within_a_second_is_not_mixed() -> None:
    """Its date is what it was, and the half that is here is of another file."""
    reply = file_reply(JUST_NOW)
    with cutting(reply, [len(reply(Seen("GET", "/", {}, b""))) - 9]) as server, client(server.url) as nsbox:
        with pytest.raises(ConnectionLost):
            nsbox.sandbox("sb_1").files.read("/f")
        assert len(server.seen) == 1


async def test_files_of_tasks(tmp_path: Any) -> None:
    for headers in (REST, JUST_NOW):
        reply = file_reply(headers)
        whole = reply(Seen("GET", "/", {}, b""))
        with cutting(reply) as server:
            async with async_client(server.url) as nsbox:
                for cut in range(0, len(whole), 7):
                    server.cuts = [cut]
                    await nsbox.sandbox("sb_1").files.download("/f", tmp_path / "f")
                    assert (tmp_path / "f").read_bytes() == CONTENT, cut


def test_an_upload_is_sent_again_as_a_whole(tmp_path: Any) -> None:
    whole = document({"path": "/f", "written": True, "size": len(CONTENT)})
    (tmp_path / "f").write_bytes(CONTENT)
    with cutting(lambda _: whole) as server, client(server.url) as nsbox:
        for cut in range(0, len(whole), 5):
            server.cuts, begun = [cut], len(server.seen)
            nsbox.sandbox("sb_1").files.upload(tmp_path / "f", "/f")
            assert [one.body for one in server.seen[begun:]] == [CONTENT] * 2
        # What comes out of a generator comes once.
        server.cuts, begun = [5], len(server.seen)
        with pytest.raises(ConnectionLost):
            nsbox.sandbox("sb_1").files.write("/f", iter([b"a", b"b"]))
        assert [one.body for one in server.seen[begun:]] == [b"ab"]


def test_a_list_is_asked_for_again() -> None:
    whole = document([SANDBOX])
    with cutting(lambda _: whole) as server, client(server.url) as nsbox:
        for cut in range(len(whole)):
            server.cuts = [cut]
            assert [one.id for one in nsbox.list()] == ["sb_1"]
