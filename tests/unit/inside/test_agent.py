"""The file agent's conversation, with the agent in a thread of the test and a plain folder for a sandbox."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nsbox.inside import agent as module
from nsbox.inside import channel, files
from nsbox.inside.agent import Agent
from nsbox.kernel import libc
from nsbox.wire.messages import (
    FROM_AGENT,
    Abort,
    Commit,
    Done,
    Entries,
    Opened,
    Put,
    Read,
    Refused,
    Remove,
    Scan,
    Write,
    Writing,
)  # fmt: skip
from tests.fuzz.descriptors import none_leaked


class Talk:
    """api's end."""

    def __init__(self) -> None:
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel.prepare(theirs)
        self.sock.settimeout(5)
        self._thread = threading.Thread(target=self._serve, args=(theirs,))
        self._thread.start()

    def _serve(self, theirs: socket.socket) -> None:
        with theirs:
            Agent(theirs).serve()

    def ask(self, message: Any) -> tuple[Any, list[int]]:
        channel.send(self.sock, message)
        return self.more()

    def more(self) -> tuple[Any, list[int]]:
        received = channel.receive(self.sock, FROM_AGENT)
        assert received is not None
        return received

    def close(self) -> None:
        self.sock.close()
        self._thread.join(5)
        assert not self._thread.is_alive()


@pytest.fixture
def talk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Talk]:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    monkeypatch.setattr(files, "PLAIN", frozenset({libc.filesystem_type(descriptor)}))
    os.close(descriptor)
    with none_leaked():
        made = Talk()
        yield made
        made.close()


def test_read(talk: Talk, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"data")
    answer, (descriptor,) = talk.ask(Read(str(tmp_path / "f")))
    assert answer == Opened(4, (tmp_path / "f").stat().st_mtime_ns, 0)
    assert os.read(descriptor, 10) == b"data"
    os.close(descriptor)
    answer, (descriptor,) = talk.ask(Read("/proc/self/stat"))
    assert answer.copied == 1
    assert answer.size == os.fstat(descriptor).st_size > 0
    os.close(descriptor)


@pytest.mark.parametrize(
    ("message", "stage", "number"),
    [
        (Read("/nowhere"), "path", errno.ENOENT),
        (Read("/"), "type", errno.EISDIR),
        (Read("/dev/null"), "type", errno.EINVAL),
        (Read("/a\0b"), "path", errno.EINVAL),
        (Read("/\ud800"), "path", errno.EINVAL),  # stands for no byte
        (Read("/" + "x" * 5000), "path", errno.ENAMETOOLONG),
        (Read("/proc/self/mem"), "path", errno.EIO),
        (Commit(""), "unknown", errno.EINVAL),
        (Remove("/", 1), "path", errno.EBUSY),
        (Scan("/dev/null", 0, 9), "path", errno.ENOTDIR),
        (Put("/proc/self/nsbox", -1, b""), "path", errno.ENOENT),
        (Write("/", -1), "type", errno.EISDIR),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_refusals_and_it_goes_on(talk: Talk, tmp_path: Path, message: Any, stage: str, number: int) -> None:
    for _ in range(3):
        answer, descriptors = talk.ask(message)
        assert isinstance(answer, Refused)
        assert (answer.stage, answer.errno, descriptors) == (stage, number, [])
    assert talk.ask(Put(str(tmp_path / "f"), -1, b"x"))[0] == Done(1)


def test_an_upload(talk: Talk, tmp_path: Path) -> None:
    answer, (descriptor,) = talk.ask(Write(str(tmp_path / "f"), 0o640))
    assert answer == Writing("")
    os.write(descriptor, b"0123456789")
    os.close(descriptor)
    assert not (tmp_path / "f").exists()
    assert talk.ask(Commit(""))[0] == Done(10)
    assert (tmp_path / "f").read_bytes() == b"0123456789"
    assert talk.ask(Commit(""))[0].stage == "unknown"


@pytest.mark.parametrize("how", ["abort", "another", "hang up"])
def test_an_upload_that_is_given_up_leaves_nothing(talk: Talk, tmp_path: Path, how: str) -> None:
    _, (descriptor,) = talk.ask(Write(str(tmp_path / "f"), -1))
    assert len(os.listdir(tmp_path)) == 1
    match how:
        case "abort":
            assert talk.ask(Abort(""))[0] == Done(0)
            assert talk.ask(Abort(""))[0] == Done(0)
        case "another":
            os.close(talk.ask(Write(str(tmp_path / "g"), -1))[1][0])
            assert talk.ask(Commit(""))[0] == Done(0)
        case "hang up":
            talk.close()
    os.close(descriptor)
    assert os.listdir(tmp_path) == (["g"] if how == "another" else [])


def test_what_an_agent_is_sent_along_is_closed(talk: Talk, tmp_path: Path) -> None:
    channel.send(talk.sock, Abort(""), [0, 0, 0])
    assert talk.more()[0] == Done(0)


def listing(talk: Talk, path: Path, recursive: int, limit: int) -> tuple[list[str], int, int]:
    """Names, the number of parts, and whether it was cut."""
    answer, _ = talk.ask(Scan(str(path), recursive, limit))
    rows, parts = list(answer.rows), 1
    while answer.more:
        answer, _ = talk.more()
        rows += answer.rows
        parts += 1
        assert isinstance(answer, Entries)
    return [json.loads(row)[0] for row in rows], parts, answer.truncated


@pytest.mark.parametrize(("limit", "truncated"), [(0, 1), (1, 1), (3, 1), (4, 0), (5, 0)])
def test_a_listing_says_whether_it_was_cut(talk: Talk, tmp_path: Path, limit: int, truncated: int) -> None:
    for path in ("a", "b"):
        (tmp_path / path).mkdir()
        (tmp_path / path / "f").write_bytes(b"")
    names, _, cut = listing(talk, tmp_path, 1, limit)
    assert (len(names), cut) == (min(limit, 4), truncated)


def test_a_listing_of_any_size_and_of_any_names(talk: Talk, tmp_path: Path) -> None:
    """Names that JSON makes six times as long, twice."""
    name = os.fsdecode(b'\xff\x01"\\' * 60)
    expected = set()
    for number in range(600):
        (tmp_path / f"{name}{number}").write_bytes(b"")
        expected.add(f"{name}{number}")
    names, parts, cut = listing(talk, tmp_path, 0, 10_000)
    assert set(names) == expected
    assert parts > 3
    assert not cut


def test_an_empty_folder(talk: Talk, tmp_path: Path) -> None:
    assert listing(talk, tmp_path, 1, 10) == ([], 1, 0)


def test_remove(talk: Talk, tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    assert talk.ask(Remove(str(tmp_path / "d"), 0))[0].errno == errno.ENOTEMPTY
    assert talk.ask(Remove(str(tmp_path / "d"), 1))[0] == Done(0)
    assert os.listdir(tmp_path) == []


def test_a_part_always_fits() -> None:
    assert 2 * module._PART < module.MAX_PACKET
