# ruff: noqa: E501 - what runs inside a sandbox is clearest as the line that somebody would type
"""Sandboxes over HTTP: made, found, listed, killed; who may; how errors look."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest

from tests.e2e.client import Answer, Api, Sandbox
from tests.e2e.daemon import Daemon

NOBODY = "sb_" + "a" * 32

#: Every documented route; {} is a sandbox's id.
ROUTES = (
    ("POST", "/sandboxes"),
    ("GET", "/sandboxes"),
    ("GET", "/sandboxes/{}"),
    ("DELETE", "/sandboxes/{}"),
    ("POST", "/sandboxes/{}/exec"),
    ("POST", "/sandboxes/{}/processes"),
    ("GET", "/sandboxes/{}/processes"),
    ("DELETE", "/sandboxes/{}/processes"),
    ("GET", "/sandboxes/{}/files?path=/etc"),
    ("GET", "/sandboxes/{}/files?path=/etc/passwd&raw=true"),
    ("PUT", "/sandboxes/{}/files?path=/tmp/x"),
    ("DELETE", "/sandboxes/{}/files?path=/tmp/x"),
    ("POST", "/sandboxes/{}/snapshots"),
    ("GET", "/sandboxes/{}/snapshots"),
    ("POST", "/sandboxes/{}/fork"),
    ("GET", "/sandboxes/{}/diff"),
)
_BODIES: dict[tuple[str, str], dict[str, str]] = {
    ("POST", "exec"): {"command": "true"},
    ("POST", "processes"): {"command": "true"},
    ("PUT", "files"): {"content": ""},
}


def body_for(method: str, path: str) -> dict[str, str] | None:
    return _BODIES.get((method, path.partition("?")[0].rsplit("/", 1)[-1]))


def check_problem(answer: Answer, status: int, code: str, field: str | None = None) -> dict[str, Any]:
    """RFC 9457, with our own code; the field at fault where there is one."""
    assert (answer.status, answer.code) == (status, code), answer
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json
    assert problem["status"] == status
    assert problem["type"] == f"urn:nsbox:problem:{code}"
    assert problem["title"]
    assert problem["detail"]
    assert problem.get("field") == field, problem
    return problem


# ---- create


def test_a_post_without_a_body_gets_the_defaults(api: Api) -> None:
    answer = api.request("POST", "/sandboxes")
    assert answer.status == 201, answer
    made = answer.json
    try:
        assert re.fullmatch(r"sb_[a-z2-7]{32}", made["id"])
        assert answer.headers["location"] == f"/api/v1/sandboxes/{made['id']}"
        limits = {name: made[name] for name in ("vcpus", "memoryMb", "storageMb", "timeoutMs")}
        assert limits == {"vcpus": 1, "memoryMb": 512, "storageMb": 1024, "timeoutMs": 1_800_000}
        assert (made["status"], made["templateId"]) == ("running", "default")
        assert made["region"]
        assert api.get(made["id"]) == made
    finally:
        api.kill(made["id"])


@pytest.mark.parametrize("body", [b"{}", b'{"vcpus": null, "envVars": {}}', b" {\n} "])
def test_an_empty_wish_is_a_wish(api: Api, body: bytes) -> None:
    answer = api.request("POST", "/sandboxes", raw=body, headers={"Content-Type": "application/json"})
    assert answer.status == 201, answer
    api.kill(answer.json["id"])


def test_every_field_is_taken_and_told(make_sandbox: Callable[..., Sandbox], api: Api) -> None:
    wish = {"vcpus": 2, "memoryMb": 600, "storageMb": 2048, "timeoutMs": 60_000, "templateId": "default"}
    made = make_sandbox(**wish, envVars={"KEY": "value with = and ü"})
    told = api.get(made.id)
    assert {name: told[name] for name in wish} == wish
    assert "envVars" not in told
    assert "value with" not in json.dumps(told)
    expires, created = (datetime.fromisoformat(told[name]) for name in ("expiresAt", "createdAt"))
    assert (expires - created).total_seconds() == 60
    assert told["expiresAt"].endswith("Z")
    assert sorted(told["limits"]["enforced"] + told["limits"]["notEnforced"]) == sorted(
        ["vcpus", "memoryMb", "storageMb", "pids"]
    )
    assert made.out('printf %s "$KEY"') == "value with = and ü"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vcpus", 0), ("vcpus", 5), ("vcpus", -1), ("vcpus", "1"), ("vcpus", 1.5), ("vcpus", True),
        ("vcpus", 10**30), ("memoryMb", 511), ("memoryMb", 4097), ("storageMb", 63), ("storageMb", 102_401),
        ("timeoutMs", 999), ("timeoutMs", 86_400_001), ("envVars", []), ("envVars", {"A": 1}),
        ("templateId", ""), ("templateId", 7), ("image", ""), ("unknownThing", 1), ("vcpu", 1),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(api: Api, field: str, value: object) -> None:
    answer = api.request("POST", "/sandboxes", {field: value})
    assert answer.status == 422, answer
    assert answer.code == "invalid_field", answer
    assert answer.json["field"].startswith(field), answer


@pytest.mark.parametrize("name", ["", "A=B", "A\0B"])
def test_a_variable_that_execve_cannot_carry_is_refused(api: Api, name: str) -> None:
    assert api.request("POST", "/sandboxes", {"envVars": {name: "x"}}).status == 422
    assert api.request("POST", "/sandboxes", {"envVars": {"A": "x\0y"}}).status == 422


@pytest.mark.parametrize("name", ["gone", "../../etc", "python:2"])
def test_a_template_that_is_not_here_is_said_with_what_is(api: Api, name: str) -> None:
    problem = check_problem(
        api.request("POST", "/sandboxes", {"templateId": name}), 422, "template_not_available", "templateId"
    )
    known = {one["id"] for one in api.request("GET", "/templates").json}
    assert set(problem["available"]) == known >= {"default", "python:3.12-slim", "node:22-alpine"}
    assert "default" in problem["detail"]
    assert problem["remedy"]


@pytest.mark.parametrize("name", ["python:3.12-slim", "node:22-alpine"])
def test_an_image_that_is_not_here_and_may_not_be_pulled_is_said(api: Api, name: str) -> None:
    wish = {"image": name, "pull": "never"}
    problem = check_problem(api.request("POST", "/sandboxes", wish), 422, "image_not_available", "image")
    assert name in problem["detail"]
    assert problem["remedy"]


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'"x"', b"nul", b'{"vcpus": NaN}', b'{"vcpus": 1, "vcpus": 2}', b"\xff\xfe", b"{}{}",
     b"[" * 100_000, b'{"a":' * 100_000],
)  # fmt: skip
def test_a_body_that_is_no_object_is_refused(api: Api, body: bytes) -> None:
    answer = api.request("POST", "/sandboxes", raw=body, headers={"Content-Type": "application/json"})
    assert answer.status in (400, 422), answer
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_body_of_another_type_is_refused(api: Api) -> None:
    answer = api.request("POST", "/sandboxes", raw=b"{}", headers={"Content-Type": "text/xml"})
    check_problem(answer, 415, "unsupported_media_type")


# ---- list, get, kill


def test_a_list_has_the_living_and_filters(api: Api, make_sandbox: Callable[..., Sandbox]) -> None:
    living, dead = make_sandbox(), make_sandbox()
    api.kill(dead.id)

    def ids(query: str = "") -> set[str]:
        return {one["id"] for one in api.request("GET", f"/sandboxes{query}").json} & {living.id, dead.id}

    assert ids() == {living.id}
    assert ids("?status=running") == {living.id}
    assert ids("?status=stopped") == {dead.id}
    assert ids("?status=all") == {living.id, dead.id}
    assert ids("?status=running,stopped") == {living.id, dead.id}
    check_problem(api.request("GET", "/sandboxes?status=sleeping"), 422, "invalid_field", "status")
    check_problem(api.request("GET", "/sandboxes?page=2"), 400, "invalid_request", "page")


def test_killing_ends_it_and_the_record_stays(api: Api, sandbox: Sandbox) -> None:
    first = api.kill(sandbox.id)
    assert (first.status, first.json) == (200, {"id": sandbox.id, "status": "stopped"})
    again = api.kill(sandbox.id)
    assert (again.status, again.json) == (200, {"id": sandbox.id, "status": "stopped"})
    record = api.get(sandbox.id)
    assert (record["status"], record["endReason"]) == ("stopped", "killed")
    assert datetime.fromisoformat(record["endedAt"]) >= datetime.fromisoformat(record["createdAt"])
    check_problem(sandbox.exec("true"), 409, "wrong_state")
    check_problem(sandbox.read("/etc/passwd"), 409, "wrong_state")
    check_problem(sandbox.write("/tmp/x", ""), 409, "wrong_state")
    check_problem(sandbox.request("GET", "/processes"), 409, "wrong_state")


def test_many_kills_at_once_are_one(api: Api) -> None:
    sandbox_id = api.create()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.kill(sandbox_id), range(8)))
    assert {(answer.status, answer.json["status"]) for answer in answers} <= {
        (200, "stopped"),
        (200, "stopping"),
    }
    assert api.get(sandbox_id)["status"] == "stopped"


@pytest.mark.parametrize("identifier", [NOBODY, "x", "sb_", "a" * 300, "sb_%2e%2e", "..", "sb_ABC"])
@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if "{}" in route[1]])
def test_an_unknown_id_is_404_everywhere(api: Api, method: str, path: str, identifier: str) -> None:
    answer = api.request(method, path.format(identifier), body_for(method, path))
    assert answer.status == 404, answer
    assert answer.code in ("sandbox_not_found", "route_not_found")
    if identifier == NOBODY:
        assert answer.code == "sandbox_not_found"


# ---- who asks


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "missing_key"),
        ("Basic YWRtaW46YWRtaW4=", "missing_key"),
        ("Bearer", "missing_key"),
        ("Bearer wrong-key-of-the-right-length-000", "invalid_key"),
        ("Bearer ' OR 1=1 --", "invalid_key"),
    ],
)
def test_no_key_no_answer(
    daemon: Daemon, sandbox: Sandbox, method: str, path: str, header: str | None, code: str
) -> None:
    with Api(daemon.url, None) as stranger:
        headers = {} if header is None else {"Authorization": header}
        answer = stranger.request(method, path.format(sandbox.id), body_for(method, path), headers=headers)
    check_problem(answer, 401, code)
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_stranger_learns_no_routes(daemon: Daemon) -> None:
    with Api(daemon.url, None) as stranger:
        known = stranger.request("GET", "/sandboxes")
        unknown = stranger.request("GET", "/no/such/route")
    assert (known.status, known.body) == (unknown.status, unknown.body) == (401, known.body)


@pytest.mark.parametrize("path", ["/healthz", "/api/v1/healthz"])
def test_health_needs_no_key(daemon: Daemon, path: str) -> None:
    with Api(daemon.url, None) as stranger:
        answer = stranger.request("GET", "/" + path)
    assert (answer.status, answer.json["status"]) == (200, "ok")
    assert daemon.key is not None
    assert daemon.key not in answer.body.decode()


# ---- routes


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("POST", "//", 405),
        ("GET", "//api/v2/sandboxes", 404),
        ("GET", "//api/v1/../v1/sandboxes", 404),
        ("GET", "//api/v1//sandboxes", 404),
        ("GET", "/sandboxes/", 404),
        ("GET", "/%73andboxes", 404),
        ("PATCH", "/sandboxes", 405),
        ("PUT", f"/sandboxes/{NOBODY}", 405),
        ("GET", f"/sandboxes/{NOBODY}/exec", 405),
        ("TRACE", "/sandboxes", 405),
        ("OPTIONS", "/sandboxes", 405),
    ],
)
def test_what_is_no_route_is_a_problem(api: Api, method: str, path: str, status: int) -> None:
    answer = api.request(method, path)
    check_problem(answer, status, "route_not_found" if status == 404 else "method_not_allowed")
    if status == 405:
        assert answer.headers["allow"]


def test_answers_are_for_nobodys_cache(api: Api) -> None:
    answer = api.request("GET", "/sandboxes")
    assert (answer.headers["cache-control"], answer.headers["x-content-type-options"]) == (
        "no-store",
        "nosniff",
    )
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "line",
    [b"GET /none HTTP/9.9", b"GET", b"\x00\x01\x02", b"GET /\xff HTTP/1.1\r\nHost: x", b"A" * 100_000,
     b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1", b"GET / HTTP/1.1\r\nHost: x\r\nA" + b"b" * 200_000 + b": c",
     b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked"],
)  # fmt: skip
def test_a_broken_request_harms_only_itself(daemon: Daemon, api: Api, line: bytes) -> None:
    raw = http.client.HTTPConnection(api.host, api.port, timeout=20)
    raw.connect()
    try:
        assert raw.sock is not None
        raw.sock.sendall(line + b"\r\n\r\n")
        first = raw.sock.recv(64)
    except ConnectionError:
        first = b""
    finally:
        raw.close()
    assert not first or first.split()[1][:1] == b"4", first
    assert api.request("GET", "/sandboxes").status == 200


# ---- tenants


def test_another_tenant_finds_nothing(daemon: Daemon, sandbox: Sandbox) -> None:
    """Two owners × every route that names a sandbox: as if it did not exist."""
    made = daemon.nsbox("keys", "create", "other", "--owner", "other", "--state-dir", daemon.state_dir)
    assert made.returncode == 0, made.stderr
    pairs = 0
    with daemon.api(made.stdout.strip()) as other:
        assert sandbox.id not in {one["id"] for one in other.request("GET", "/sandboxes?status=all").json}
        for method, path in ROUTES:
            if "{}" not in path:
                continue
            answer = other.request(method, path.format(sandbox.id), body_for(method, path))
            check_problem(answer, 404, "sandbox_not_found")
            pairs += 1
    assert sandbox.run("true")["exitCode"] == 0
    print(f"another tenant's id: {pairs} routes tried, 0 crossings")


# ---- time


@pytest.mark.parametrize("timeout_ms", [1000])
def test_it_is_killed_on_time(api: Api, timeout_ms: int) -> None:
    begun = time.monotonic()
    sandbox = api.sandbox(timeoutMs=timeout_ms)
    answer = sandbox.exec("sleep 30", timeoutMs=20_000)
    waited = time.monotonic() - begun
    assert answer.status == 200, answer
    assert (answer.json["outcome"], answer.json["exitCode"]) == ("sandboxGone", None)
    assert 0.9 <= waited <= 1.5, waited
    deadline = time.monotonic() + 2
    while (record := api.get(sandbox.id))["status"] != "stopped":
        assert time.monotonic() < deadline, record
    assert record["endReason"] == "expired"
    life = datetime.fromisoformat(record["endedAt"]) - datetime.fromisoformat(record["createdAt"])
    print(f"timeoutMs {timeout_ms}: ended after {life.total_seconds() * 1000:.0f} ms")
    assert life.total_seconds() <= 1.5
