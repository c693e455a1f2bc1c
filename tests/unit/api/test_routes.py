from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nsbox.api.services import Listing
from nsbox.host.logs import Piece, Stream
from nsbox.model.errors import Code, HostProblem, Problem
from nsbox.model.lifecycle import State
from nsbox.model.sandbox import Encoding, Entry, FileType, Outcome, Output
from nsbox.service.following import Gap
from nsbox.settings import Settings
from tests.unit.api.client import Answer, running
from tests.unit.api.fakes import CREATED, OTHER_KEY, FakeFile

SANDBOX_ROUTES = [
    ("GET", ""),
    ("DELETE", ""),
    ("POST", "/exec", {"command": "true"}),
    ("POST", "/processes", {"command": "true"}),
    ("GET", "/processes"),
    ("DELETE", "/processes"),
    ("GET", "/processes/cmd_0"),
    ("GET", "/processes/cmd_0/wait?timeoutMs=1"),
    ("POST", "/processes/cmd_0/signal", {"signal": "TERM"}),
    ("DELETE", "/processes/cmd_0"),
    ("GET", "/processes/cmd_0/logs"),
    ("GET", "/processes/cmd_0/logs?follow=true"),
    ("GET", "/processes/cmd_0/logs?raw=true"),
    ("POST", "/exec?stream=true", {"command": "true"}),
    ("GET", "/files?path=/a"),
    ("POST", "/files/ticket?path=/a"),
    ("GET", "/files?path=/a&raw=true"),
    ("GET", "/files?path=/a&list=true"),
    ("PUT", "/files?path=/a", {"content": ""}),
    ("DELETE", "/files?path=/a"),
    ("POST", "/pause"),
    ("POST", "/resume"),
    ("POST", "/timeout", {"timeoutMs": 5_000}),
    ("PUT", "/lifecycle", {"autoResume": True}),
    ("GET", "/metrics"),
    ("GET", "/ports"),
    ("POST", "/ports", {"port": 80}),
    ("DELETE", "/ports/80"),
    ("POST", "/ports/80/links"),
]


async def test_a_life() -> None:
    async with running() as server:
        created = await server.ask("POST", "/sandboxes", {"vcpus": 2, "envVars": {"TOKEN": "hunter2"}})
        assert created.status == 201
        view = created.json()
        assert created.headers["location"] == f"/api/v1/sandboxes/{view['id']}"
        assert list(view)[:3] == ["id", "status", "vcpus"]
        assert (view["vcpus"], view["memoryMb"], view["templateId"]) == (2, 512, "default")
        assert (view["createdAt"], view["expiresAt"]) == (
            "2026-03-13T12:00:00.000Z",
            "2026-03-13T12:30:00.000Z",
        )
        assert view["limits"] == {
            "enforced": ["memoryMb", "pids"],
            "notEnforced": ["vcpus", "storageMb"],
            "storage": None,
        }
        assert view["oom"] == {"kills": 0, "lastAt": None}
        assert server.fakes.sandboxes.specs[0].env == {"TOKEN": "hunter2"}
        one = f"/sandboxes/{view['id']}"
        for answer in (created, await server.ask("GET", one), await server.ask("GET", "/sandboxes")):
            assert b"hunter2" not in answer.body
        assert (await server.ask("GET", "/sandboxes")).json() == [view]
        for _ in range(2):
            killed = await server.ask("DELETE", one)
            assert (killed.status, killed.json()) == (200, {"id": view["id"], "status": "stopped"})
        ended = (await server.ask("GET", one)).json()
        assert (ended["endedAt"], ended["endReason"]) == ("2026-03-13T12:01:00.000Z", "killed")
        assert (await server.ask("GET", "/sandboxes")).json() == []
        assert (await server.ask("GET", "/sandboxes?status=all")).json() == [ended]


@pytest.mark.parametrize("status", [*State, "all", "running,paused"])
async def test_list_by_status(status: str) -> None:
    async with running() as server:
        record = server.fakes.sandboxes.records[await server.sandbox()]
        for state in State:
            server.fakes.sandboxes.records[state] = msgspec.structs.replace(record, id=state, state=state)
        del server.fakes.sandboxes.records[record.id]
        shown = [view["status"] for view in (await server.ask("GET", f"/sandboxes?status={status}")).json()]
        expected = list(State) if status == "all" else status.split(",")
        assert sorted(shown) == sorted(expected)


async def test_list_wrong_status() -> None:
    async with running() as server:
        for status in ("", "dead", "running,", "all,running", "%ff"):
            answer = await server.ask("GET", f"/sandboxes?status={status}")
            assert (answer.status, answer.code, answer.json()["field"]) == (422, "invalid_field", "status")


async def test_templates_and_images() -> None:
    async with running() as server:
        for body, template in (
            ({"image": "python:3.12-slim"}, "python:3.12-slim"),
            ({"templateId": "x"}, "x"),
        ):
            assert (await server.ask("POST", "/sandboxes", body)).json()["templateId"] == template
        for body, code, field in (
            ({"image": "no:such"}, "image_not_available", "image"),
            ({"templateId": "nope"}, "template_not_available", "templateId"),
            ({"image": "no:such", "vcpus": 99}, "invalid_field", "vcpus"),
        ):
            answer = await server.ask("POST", "/sandboxes", body)
            assert (answer.status, answer.code, answer.json()["field"]) == (422, code, field)
        assert len(server.fakes.sandboxes.specs) == 2


async def test_exec() -> None:
    async with running() as server:
        one = f"/sandboxes/{await server.sandbox()}/exec"
        answer = await server.ask("POST", one, {"command": "echo hello", "timeoutMs": 5})
        view = answer.json()
        assert answer.status == 200
        assert list(view)[:4] == ["stdout", "stderr", "exitCode", "durationMs"]
        assert (view["stdout"], view["exitCode"], view["timedOut"], view["signal"]) == (
            "hello\n",
            0,
            False,
            None,
        )
        assert server.fakes.commands.specs[-1].timeout_ms == 5
        server.fakes.commands.result = msgspec.structs.replace(
            server.fakes.commands.result,
            outcome=Outcome.TIMED_OUT,
            exit_code=None,
            signal="KILL",
            stdout=Output(b"\xff", True),
        )
        body = {
            "command": ["a", "b c"],
            "encoding": "base64",
            "stdin": "é",
            "user": "1000:1000",
            "cwd": "/tmp",
        }
        view = (await server.ask("POST", one, body)).json()
        assert (view["exitCode"], view["timedOut"], view["signal"], view["outcome"]) == (
            None,
            True,
            "KILL",
            "timedOut",
        )
        assert (view["stdout"], view["truncated"], view["stderrTruncated"]) == ("/w==", True, False)
        spec = server.fakes.commands.specs[-1]
        assert (spec.argv, spec.stdin, spec.user, spec.cwd) == (
            ("a", "b c"),
            "é".encode(),
            "1000:1000",
            "/tmp",
        )
        assert spec.encoding is Encoding.BASE64


async def test_output_as_events() -> None:
    async with running() as server:
        one = f"/sandboxes/{await server.sandbox()}"
        server.fakes.commands.written = [
            Piece(Stream.STDOUT, 0, b"out\n"),
            Piece(Stream.STDERR, 4, b"\xff"),
            Gap(5, 100),
            Piece(Stream.STDOUT, 100, b"x"),
        ]
        answer = await server.ask("POST", f"{one}/exec?stream=true", {"command": "x"})
        assert answer.headers["content-type"] == "text/event-stream"
        events = answer.body.decode().split("\n\n")
        assert [event.split("\n")[0] for event in events[:6]] == [
            "event: started",
            "id: 4",
            "id: 5",
            "id: 100",
            "id: 101",
            "event: exit",
        ]
        assert events[1] == 'id: 4\nevent: stdout\ndata: {"offset":0,"data":"out\\n"}'
        assert events[2].endswith('{"offset":4,"data":"\ufffd"}')
        assert events[3] == 'id: 100\nevent: dropped\ndata: {"offset":5,"until":100}'
        logs = f"{one}/processes/cmd_0/logs"
        again = await server.ask("GET", f"{logs}?encoding=base64", headers={"Last-Event-ID": "100"})
        assert again.json()["chunks"] == [{"stream": "stdout", "offset": 100, "data": "eA=="}]
        assert (again.json()["offset"], again.json()["nextOffset"]) == (100, 101)
        whole = (await server.ask("GET", logs)).json()
        assert (len(whole["chunks"]), whole["dropped"], whole["process"]["id"]) == (3, 95, "cmd_0")
        raw = await server.ask("GET", f"{logs}?raw=true&stream=stdout&offset=100")
        assert (raw.body, raw.headers["x-log-offset"]) == (b"x", "100")
        server.fakes.commands.error = Problem(Code.SANDBOX_GONE, "gone")
        broken = await server.ask("GET", f"{logs}?follow=true", headers={"Last-Event-ID": "101"})
        assert broken.status == 200
        assert b"event: problem\n" in broken.body
        assert b'"sandbox_gone"' in broken.body


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("/exec?stream=maybe", {}, 422),
        ("/exec?offset=5", {}, 400),
        ("/exec?stream=true&offset=5", {}, 400),
        ("/exec?stream=true", {"Last-Event-ID": "5"}, 400),
        ("/exec?stream=true", {"Last-Event-ID": "five"}, 422),
        ("/exec?stream=true", {"Last-Event-ID": "9" * 19}, 422),
        ("/exec", {"Idempotency-Key": ""}, 422),
        ("/exec", {"Idempotency-Key": "x" * 256}, 422),
        ("/processes", {"Idempotency-Key": "x" * 256}, 422),
    ],
)
async def test_what_streams_do_not_take(query: str, headers: dict[str, str], status: int) -> None:
    async with running() as server:
        one = f"/sandboxes/{await server.sandbox()}"
        answer = await server.ask("POST", one + query, {"command": "x"}, headers=headers)
        assert answer.status == status
        assert server.fakes.commands.specs == []


async def test_until_a_process_is_ready() -> None:
    async with running() as server:
        one = f"/sandboxes/{await server.sandbox()}/processes"
        for when, ready in (({"port": 80}, True), ({"line": "up", "timeoutMs": 5}, False)):
            answer = await server.ask("POST", one, {"command": "x", "readyWhen": when})
            assert (answer.status, answer.json()["ready"]) == (201, ready)
        assert [(one.port, one.line, one.patience) for one in server.fakes.readiness.asked] == [
            (80, None, 30.0),
            (None, "up", 0.005),
        ]
        bad: list[dict[str, object]] = [
            {},
            {"port": 1, "line": "x"},
            {"port": 0},
            {"line": ""},
            {"line": "a\nb"},
            {"line": "x" * 1001},
            {"port": 1, "timeoutMs": 300_001},
            {"port": 1, "more": 1},
        ]
        for when in bad:
            answer = await server.ask("POST", one, {"command": "x", "readyWhen": when})
            assert answer.status == 422, when
            assert answer.json()["field"].startswith("readyWhen"), when
        assert len(server.fakes.commands.specs) == 2


async def test_waiting_and_signals() -> None:
    async with running() as server:
        one = f"/sandboxes/{await server.sandbox()}/processes"
        await server.ask("POST", one, {"command": "sleep 1"})
        asked = server.fakes.commands.asked
        for name in ("TERM", "sigterm", 15, "USR1", 64):
            answer = await server.ask("POST", f"{one}/cmd_0/signal", {"signal": name})
            assert answer.status == 200
        assert asked == [15, 15, 15, 10, 64]
        for bad in ("", "NONE", 0, -1, 65, 1 << 70, None):
            answer = await server.ask("POST", f"{one}/cmd_0/signal", {"signal": bad})
            assert answer.status in (400, 422), bad
        for raw, status in (("0", 200), ("300000", 200), ("300001", 422), ("-1", 422), ("9" * 99, 422)):
            answer = await server.ask("GET", f"{one}/cmd_0/wait?timeoutMs={raw}")
            assert answer.status == status, raw
        await server.ask("GET", f"{one}/cmd_0/wait")
        assert asked[5:] == [0, 300, 30]
        assert (await server.ask("DELETE", f"{one}/cmd_9")).code == "process_not_found"


async def test_requests_with_a_key() -> None:
    """Known again by what they ask for, not by how that is spelled; of the secrets in them only a hash is
    kept."""
    async with running() as server:
        one, headers = f"/sandboxes/{await server.sandbox()}", {"Idempotency-Key": "mine"}
        wishes: list[tuple[str, dict[str, object]]] = [
            ("/exec", {"command": "x", "env": {"A": "1", "B": "secret"}}),
            ("/exec", {"env": {"B": "secret", "A": "1"}, "command": "x", "timeoutMs": None}),
            ("/exec", {"command": "y"}),
            ("/exec?stream=true", {"command": "y"}),
            ("/processes", {"command": "y"}),
        ]
        for path, body in wishes:
            assert (await server.ask("POST", one + path, body, headers=headers)).status in (200, 201)
        first, second, *others = server.fakes.commands.requests
        assert first == second
        assert first is not None
        assert len({first.body, *(one.body for one in others if one is not None)}) == 4
        assert {one.key for one in others if one is not None} == {first.key}
        assert "secret" not in repr(first)
        assert (await server.ask("POST", f"{one}/exec", {"command": "x"})).status == 200
        assert server.fakes.commands.requests[-1] is None


async def test_processes() -> None:
    async with running() as server:
        one = f"/sandboxes/{await server.sandbox()}/processes"
        answer = await server.ask("POST", one, {"command": "sleep 1", "cwd": "/app", "env": {"PORT": "1"}})
        assert answer.status == 201
        assert list(answer.json().items())[:2] == [("pid", 42), ("command", "sleep 1")]
        assert server.fakes.commands.specs[-1].env == {"PORT": "1"}
        server.fakes.commands.processes.append(
            msgspec.structs.replace(server.fakes.commands.processes[0], running=False, exit_code=3)
        )
        first, second = (await server.ask("GET", one)).json()
        assert (first, first["status"]) == (answer.json(), "running")
        assert (second["status"], second["exitCode"], second["signal"]) == ("exited", 3, None)
        assert (await server.ask("DELETE", one)).json() == {"killed": 2}
        answer = await server.ask("POST", one, {"command": "a", "timeoutMs": 5})
        assert answer.status == 201
        assert server.fakes.commands.specs[-1].timeout_ms == 5
        answer = await server.ask("POST", one, {"command": "a", "timeoutMs": 0})
        assert (answer.status, answer.json()["field"]) == (422, "timeoutMs")


async def test_files_in_json() -> None:
    async with running() as server:
        files = f"/sandboxes/{await server.sandbox()}/files"
        answer = await server.ask("PUT", f"{files}?path=/app/a.py", {"content": "é\n", "mode": "0755"})
        assert (answer.status, answer.json()) == (200, {"path": "/app/a.py", "written": True, "size": 3})
        assert server.fakes.files.modes[b"/app/a.py"] == 0o755
        answer = await server.ask("GET", f"{files}?path=/app/a.py")
        assert answer.json() == {"path": "/app/a.py", "content": "é\n", "encoding": "utf8"}
        answer = await server.ask("PUT", f"{files}?path=/b", {"content": "AP8=", "encoding": "base64"})
        assert server.fakes.files.files[b"/b"] == b"\0\xff"
        answer = await server.ask("GET", f"{files}?path=/b")
        assert answer.json() == {"path": "/b", "content": "AP8=", "encoding": "base64"}
        answer = await server.ask("GET", f"{files}?path=/b&encoding=utf8")
        assert answer.json()["content"] == "\0\ufffd"
        answer = await server.ask("DELETE", f"{files}?path=/b&recursive=true")
        assert answer.json() == {"path": "/b", "deleted": True}
        assert server.fakes.files.removed == [(b"/b", True)]


async def test_names_that_are_not_utf8() -> None:
    async with running() as server:
        files = f"/sandboxes/{await server.sandbox()}/files"
        answer = await server.ask("PUT", f"{files}?path=/%ff+%2B", {"content": ""})
        assert server.fakes.files.files == {b"/\xff +": b""}
        encoded = base64.b64encode(b"/\xff +").decode()
        assert answer.json() == {"path": "/\ufffd +", "pathBase64": encoded, "written": True, "size": 0}
        answer = await server.ask("GET", f"{files}?path=/%fe")
        assert (answer.status, answer.code) == (404, "file_not_found")


async def test_list_files() -> None:
    async with running() as server:
        files = f"/sandboxes/{await server.sandbox()}/files"
        answer = await server.ask("GET", f"{files}?path=/app&list=true")
        (entry,) = answer.json()["entries"]
        assert answer.json()["files"] == ["index.js"]
        assert (entry["mode"], entry["mtime"], entry["type"]) == ("0644", "2026-03-13T12:00:00.000Z", "file")
        assert "target" not in entry
        odd = Entry(
            name="\udcff", path="/\udcff", type=FileType.SYMLINK, size=0, mode=0o777, uid=0, gid=0, mtime=0.0
        )
        server.fakes.files.listing = Listing([msgspec.structs.replace(odd, target="x")], True)
        answer = await server.ask("GET", f"{files}?path=/app&list=true&recursive=true")
        (entry,) = answer.json()["entries"]
        assert (entry["name"], entry["nameBase64"], entry["target"]) == ("\ufffd", "/w==", "x")
        assert answer.json()["truncated"] is True
        assert server.fakes.files.listed == [(b"/app", False), (b"/app", True)]


async def test_raw_upload_and_download() -> None:
    data = bytes(range(256)) * 4000
    octets = {"Content-Type": "application/octet-stream"}
    async with running() as server:
        files = f"/sandboxes/{await server.sandbox()}/files"
        for chunked in (False, True):
            server.fakes.files.files.clear()
            answer = await server.ask(
                "PUT", f"{files}?path=/b&mode=0600", data, headers=octets, chunked=chunked
            )
            assert (answer.status, answer.json()["size"]) == (200, len(data))
            assert server.fakes.files.files == {b"/b": data}
            assert server.fakes.files.modes == {b"/b": 0o600}
        for target, headers in (
            (f"{files}?path=/b&raw=true", {}),
            (f"{files}?path=/b", {"Accept": "application/octet-stream"}),
        ):
            answer = await server.ask("GET", target, headers=headers)
            assert (answer.status, answer.body) == (200, data)
            assert answer.headers["content-length"] == str(len(data))
            assert answer.headers["last-modified"] == "Fri, 13 Mar 2026 12:00:00 GMT"
        answer = await server.ask("HEAD", f"{files}?path=/b&raw=true")
        assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", str(len(data)))


@pytest.mark.parametrize(
    ("header", "status", "start", "end"),
    [
        ("bytes=0-0", 206, 0, 1),
        ("bytes=2-4", 206, 2, 5),
        ("bytes=7-", 206, 7, 10),
        ("bytes=-3", 206, 7, 10),
        ("bytes=-100", 206, 0, 10),
        ("bytes=5-100", 206, 5, 10),
        ("Bytes=5-", 206, 5, 10),
        ("bytes=10-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
        ("bytes=100-200", 416, 0, 0),
        ("bytes=4-2", 200, 0, 10),
        ("bytes=0-1,3-4", 200, 0, 10),
        ("bytes=-", 200, 0, 10),
        ("items=0-1", 200, 0, 10),
        ("bytes=" + "9" * 30 + "-", 200, 0, 10),
    ],
)
async def test_ranges(header: str, status: int, start: int, end: int) -> None:
    async with running() as server:
        files = f"/sandboxes/{await server.sandbox()}/files"
        server.fakes.files.files[b"/b"] = b"0123456789"
        answer = await server.ask("GET", f"{files}?path=/b&raw=true", headers={"Range": header})
        assert answer.status == status
        if status == 416:
            assert (answer.code, answer.headers["content-range"]) == ("range_not_satisfiable", "bytes */10")
        else:
            assert answer.body == b"0123456789"[start:end]
        if status == 206:
            assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/10"


async def test_a_range_under_a_condition() -> None:
    async with running() as server:
        files = f"/sandboxes/{await server.sandbox()}/files"
        server.fakes.files.files[b"/b"] = b"0123456789"
        for condition, status in (("Fri, 13 Mar 2026 12:00:00 GMT", 206), ('"etag"', 200)):
            headers = {"Range": "bytes=0-1", "If-Range": condition}
            assert (await server.ask("GET", f"{files}?path=/b&raw=true", headers=headers)).status == status


@pytest.mark.parametrize("mtime", [float("nan"), 1e300, -1e300, -1.0])
async def test_a_file_with_an_impossible_time(mtime: float) -> None:
    async with running() as server:
        files = f"/sandboxes/{await server.sandbox()}/files"
        server.fakes.files.opened = FakeFile(b"x", mtime)
        assert (await server.ask("GET", f"{files}?path=/b&raw=true")).body == b"x"


async def test_files_without_a_size() -> None:
    async with running() as server:
        files = f"/sandboxes/{await server.sandbox()}/files"
        for data in (b"", b"x" * 600_000):
            server.fakes.files.opened = FakeFile(data, CREATED, size=0)
            answer = await server.ask("GET", f"{files}?path=/proc/x&raw=true")
            assert (answer.status, answer.body) == (200, data)


async def test_large_files_in_json_are_refused() -> None:
    small = Settings(state_dir="/x", max_json_file_bytes=10, max_json_bytes=1000, max_upload_bytes=20)
    async with running(small) as server:
        files = f"/sandboxes/{await server.sandbox()}/files?path=/a"
        answer = await server.ask("PUT", files, {"content": "x" * 11})
        assert (answer.status, answer.code) == (413, "body_too_large")
        server.fakes.files.files[b"/a"] = b"x" * 11
        answer = await server.ask("GET", files)
        assert (answer.status, answer.code) == (413, "file_too_large")
        octets = {"Content-Type": "application/octet-stream"}
        for chunked in (False, True):
            answer = await server.ask("PUT", files, b"x" * 21, headers=octets, chunked=chunked)
            assert (answer.status, answer.code) == (413, "body_too_large")
            assert server.fakes.files.files[b"/a"] == b"x" * 11
            answer = await server.ask("PUT", files, {"content": "", "mode": "x" * 1000}, chunked=False)
            assert answer.code == "body_too_large"


async def test_pause_resume_and_time() -> None:
    async with running() as server:
        name = await server.sandbox()
        one = f"/sandboxes/{name}"
        paused = await server.ask("POST", f"{one}/pause")
        assert (paused.status, paused.json()) == (
            200,
            {"id": name, "status": "paused", "reclaimedBytes": 4096},
        )
        view = (await server.ask("GET", one)).json()
        assert (view["status"], view["expiresAt"], view["remainingMs"]) == ("paused", None, 60_500)
        assert (await server.ask("POST", f"{one}/timeout", {"timeoutMs": 5_000})).json() == {
            "id": name,
            "status": "paused",
            "timeoutMs": 5_000,
            "expiresAt": None,
            "remainingMs": 5_000,
        }
        resumed = (await server.ask("POST", f"{one}/resume")).json()
        assert (resumed["status"], list(resumed)) == ("running", ["id", "status", "timeoutMs", "expiresAt"])
        for body in ({"timeoutMs": 1}, {"timeoutMs": 86_400_001}, {}, {"timeoutMs": "x"}):
            answer = await server.ask("POST", f"{one}/timeout", body)
            assert (answer.status, answer.json()["field"]) == (422, "timeoutMs"), body
        for below in ("/pause", "/resume"):
            assert (await server.ask("POST", one + below, {"x": 1})).json()["field"] == "x"
        assert "remainingMs" not in (await server.ask("GET", one)).json()


@pytest.mark.parametrize("route", SANDBOX_ROUTES, ids=lambda route: f"{route[0]}{route[1]}")
async def test_the_sandbox_of_somebody_else_does_not_exist(route: tuple[Any, ...]) -> None:
    async with running() as server:
        method, path, *body = route
        target = f"/sandboxes/{await server.sandbox()}{path}"
        unknown = await server.ask(method, f"/sandboxes/sb_none{path}", *body)
        other = await server.ask(method, target, *body, key=OTHER_KEY)
        assert (other.status, other.code) == (unknown.status, unknown.code) == (404, "sandbox_not_found")


async def test_nobody_uploads_to_the_sandbox_of_somebody_else() -> None:
    octets = {"Content-Type": "application/octet-stream"}
    async with running() as server:
        target = f"/sandboxes/{await server.sandbox()}/files?path=/a"
        answer = await server.ask("PUT", target, b"x", headers=octets, key=OTHER_KEY)
        assert (answer.status, answer.code) == (404, "sandbox_not_found")
        assert server.fakes.files.files == {}


@pytest.mark.parametrize(
    "route",
    [("GET", "//nope"), ("POST", "/sandboxes"), ("GET", "/nope"), ("PATCH", "/sandboxes"), ("GET", "/%2e%2e")]
    + [(method, f"/sandboxes/sb_x{path}", *body) for method, path, *body in SANDBOX_ROUTES],
    ids=lambda route: f"{route[0]}{route[1]}",
)
async def test_without_a_key(route: tuple[Any, ...]) -> None:
    async with running() as server:
        for key, code in ((None, "missing_key"), ("nsbox_wrong", "invalid_key")):
            answer = await server.ask(*route, key=key)
            if route[1].startswith("//"):
                assert (answer.status, answer.code) == (404, "route_not_found")
                continue
            assert (answer.status, answer.code) == (401, code)
            assert answer.headers["www-authenticate"].startswith("Bearer ")
        assert server.fakes.sandboxes.records == {}


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Basic abc", "bearer", "Token x", "\xff"])
async def test_broken_authorization(value: str) -> None:
    async with running() as server:
        answer = await server.ask("GET", "/sandboxes", key=None, headers={"Authorization": value})
        assert (answer.status, answer.code) == (401, "missing_key")


async def test_two_keys_and_the_schemes_case() -> None:
    async with running() as server:
        answer = await server.ask("GET", "/sandboxes", headers={"Authorization": f"Bearer {OTHER_KEY}"})
        assert (answer.status, answer.code) == (401, "missing_key")
        answer = await server.ask(
            "GET", "/sandboxes", key=None, headers={"authorization": f"bEaReR {OTHER_KEY}"}
        )
        assert answer.status == 200


async def test_a_record_of_keys_that_cannot_be_read() -> None:
    async with running() as server:
        server.fakes.keys.error = HostProblem("locked: /secret/place")
        answer = await server.ask("GET", "/sandboxes")
        assert (answer.status, answer.code) == (503, "host_lacks")
        assert b"/secret" not in answer.body


async def test_health_needs_no_key() -> None:
    async with running() as server:
        for target in ("//healthz", "/healthz"):
            answer = await server.ask("GET", target, key=None)
            told = answer.json()
            assert (answer.status, told["status"], told["sandboxes"]) == (200, "ok", 0)
        server.fakes.health.fine = False
        answer = await server.ask("GET", "//healthz", key=None)
        assert (answer.status, answer.json()["status"]) == (503, "unavailable")
        assert (await server.ask("POST", "//healthz", key=None)).status == 405


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("PUT", "/sandboxes", {"GET", "HEAD", "POST"}),
        ("OPTIONS", "/sandboxes", {"GET", "HEAD", "POST"}),
        ("POST", "/sandboxes/sb_x", {"DELETE", "GET", "HEAD"}),
        ("GET", "/sandboxes/sb_x/exec", {"POST"}),
        ("PUT", "/sandboxes/sb_x/processes", {"DELETE", "GET", "HEAD", "POST"}),
        ("POST", "/sandboxes/sb_x/files", {"DELETE", "GET", "HEAD", "PUT"}),
        ("BREW", "/sandboxes", {"GET", "HEAD", "POST"}),
    ],
)
async def test_wrong_methods(method: str, target: str, allowed: set[str]) -> None:
    async with running() as server:
        answer = await server.ask(method, target)
        assert (answer.status, answer.code) == (405, "method_not_allowed")
        assert set(answer.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize(
    "target",
    [
        "",
        "/",
        "/nope",
        "/sandboxes/",
        "/sandboxes/a/b",
        "/sandboxes/x/exec/",
        "/sandboxes//exec",
        "/sandboxes/%2e%2e",
        "/sandboxes/a%2fexec",
        "/sandboxes/a%00",
        "/%73andboxes",
        "/../healthz",
        "//api",
        "//api/v1x",
        "//api/v2",
        "//%61pi/v1/sandboxes",
        "///api/v1/sandboxes",
        "//doc",
    ],
)
async def test_unknown_routes(target: str) -> None:
    async with running() as server:
        for method in ("GET", "POST"):
            answer = await server.ask(method, target or "//api/v1")
            assert (answer.status, answer.code) == (404, "route_not_found")


@pytest.mark.parametrize(
    ("kind", "fine"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("application/vnd.api+json", True),
        ("text/plain", False),
        ("application/x-www-form-urlencoded", False),
        ("multipart/form-data; boundary=x", False),
        ("application/jsonx", False),
        ("", False),
    ],
)
async def test_types_of_bodies(kind: str, fine: bool) -> None:
    async with running() as server:
        answer = await server.ask("POST", "/sandboxes", b"{}", headers={"Content-Type": kind})
        assert answer.status == (201 if fine else 415)
        assert (await server.ask("POST", "/sandboxes", headers={"Content-Type": kind})).status == 201
        assert (await server.ask("POST", "/sandboxes", b"{}")).status == 201


async def test_compressed_bodies() -> None:
    async with running() as server:
        files = f"/sandboxes/{await server.sandbox()}/files?path=/a"
        for kind in ("application/json", "application/octet-stream"):
            headers = {"Content-Type": kind, "Content-Encoding": "gzip"}
            answer = await server.ask("PUT", files, b"\x1f\x8b", headers=headers)
            assert (answer.status, answer.code) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ("", 422, "path"),
        ("path=a", 422, "path"),
        ("path=/a%00b", 422, "path"),
        ("path=/%zz", 400, "path"),
        ("path=/a&path=/b", 400, "path"),
        ("path=/a&pth=/b", 400, "pth"),
        ("path=/" + "a" * 256, 422, "path"),
        ("path=" + quote("/é" * 2048), 422, "path"),
        ("path=/a&list=yes", 422, "list"),
        ("path=/a&raw=1", 422, "raw"),
        ("path=/a&list=true&recursive=", 422, "recursive"),
        ("path=/a&encoding=hex", 422, "encoding"),
        ("path=/a&raw=true&list=true", 400, "list"),
    ],
)
async def test_bad_queries(query: str, status: int, field: str) -> None:
    async with running() as server:
        answer = await server.ask("GET", f"/sandboxes/{await server.sandbox()}/files?{query}")
        assert (answer.status, answer.json()["field"]) == (status, field)


async def test_parameters_where_there_are_none() -> None:
    async with running() as server:
        for method, target in (
            ("POST", "/sandboxes"),
            ("POST", "/sandboxes/sb_x/exec"),
            ("GET", "/sandboxes/sb_x"),
        ):
            answer = await server.ask(method, f"{target}?x=1", {"command": "a"} if "exec" in target else None)
            assert (answer.status, answer.json()["field"]) == (400, "x")


@pytest.mark.parametrize("code", Code)
async def test_every_code_from_a_service(code: Code) -> None:
    async with running() as server:
        target = f"/sandboxes/{await server.sandbox()}/exec"
        error: BaseException = Problem(code, "why")
        for raised in (error, ExceptionGroup("from a nursery", [error])):
            server.fakes.commands.error = server.fakes.sandboxes.error = raised
            by_exec = await server.ask("POST", target, {"command": "a"})
            by_quart = await server.ask("POST", "/sandboxes")
            assert by_exec.code == by_quart.code == code
            assert by_exec.json() == by_quart.json()


async def test_the_unforeseen(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as server:
        target = f"/sandboxes/{await server.sandbox()}/exec"
        server.fakes.commands.error = server.fakes.sandboxes.error = KeyError("the secret")
        answers: list[Answer] = [
            await server.ask("POST", target, {"command": "a"}),
            await server.ask("POST", "/sandboxes"),
        ]
        for answer in answers:
            assert (answer.status, answer.code) == (500, "internal")
            assert b"secret" not in answer.body
            assert answer.json()["incident"] in caplog.text
        server.fakes.commands.error = server.fakes.sandboxes.error = None
        assert (await server.ask("POST", "/sandboxes")).status == 201


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=8,
)
bodies = st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode())
routes = st.sampled_from([route[:2] for route in SANDBOX_ROUTES] + [("POST", "!"), ("GET", "!")])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(routes, bodies), max_size=10))
def test_no_body_makes_a_5xx(requests: list[tuple[tuple[str, str], bytes]]) -> None:
    async def main() -> None:
        async with running() as server:
            sandbox = await server.sandbox()
            for (method, path), body in requests:
                target = "/sandboxes" if path == "!" else f"/sandboxes/{sandbox}{path}"
                for kind in ("application/json", "application/octet-stream"):
                    answer = await server.ask(method, target, body, headers={"Content-Type": kind})
                    assert answer.status < 500

    trio.run(main)
