from __future__ import annotations

import base64
import json
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.api import views
from nsbox.model.sandbox import CommandResult, Encoding, Entry, FileType, Outcome, Output


@given(st.floats())
def test_any_time_can_be_shown(seconds: float) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", views.iso(seconds))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1_773_405_000.0, "2026-03-13T12:30:00.000Z"),
        (1_773_405_000.9996, "2026-03-13T12:30:01.000Z"),
        (0.0, "1970-01-01T00:00:00.000Z"),
        (-1e300, "0001-01-01T00:00:00.000Z"),
        (1e300, "9999-12-31T23:59:59.000Z"),
    ],
)
def test_times(seconds: float, text: str) -> None:
    assert views.iso(seconds) == text


@given(st.binary())
def test_a_file_that_is_read_and_written_back_stays_the_same(data: bytes) -> None:
    view = json.loads(msgspec.json.encode(views.file_content(b"/a", data, None)))
    content = view["content"]
    back = base64.b64decode(content) if view["encoding"] == "base64" else content.encode()
    assert back == data


def test_a_wished_encoding_is_kept() -> None:
    assert views.file_content(b"/a", b"\xff", Encoding.UTF8)["content"] == "\ufffd"
    assert views.file_content(b"/a", b"a", Encoding.BASE64)["content"] == "YQ=="


@given(st.binary(min_size=1))
def test_names_that_are_not_utf8_keep_their_bytes(name: bytes) -> None:
    text = name.decode("utf-8", "surrogateescape")
    entry = Entry(
        name=text,
        path="/" + text,
        type=FileType.SYMLINK,
        size=0,
        mode=0o120777,
        uid=1,
        gid=2,
        mtime=0.0,
        target=text,
    )
    view = json.loads(msgspec.json.encode(views.entry(entry)))
    for member in ("name", "target"):
        kept = view.get(f"{member}Base64")
        assert (base64.b64decode(kept) if kept else view[member].encode()) == name
    assert view["mode"] == "0777"


@pytest.mark.parametrize("outcome", Outcome)
def test_results(outcome: Outcome) -> None:
    result = CommandResult(
        outcome=outcome, stdout=Output(b"a\xff"), stderr=Output(b"", True), duration_ms=7, signal="KILL"
    )
    view = views.result(result, Encoding.UTF8)
    assert list(view)[:4] == ["stdout", "stderr", "exitCode", "durationMs"]
    assert (view["stdout"], view["exitCode"], view["signal"]) == ("a\ufffd", None, "KILL")
    assert view["timedOut"] is (outcome is Outcome.TIMED_OUT)
    assert (view["truncated"], view["stdoutTruncated"], view["stderrTruncated"]) == (True, False, True)
    assert views.result(result, Encoding.BASE64)["stdout"] == "Yf8="
