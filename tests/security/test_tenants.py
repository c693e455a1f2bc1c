"""Two tenants × every route: what is somebody else's is not there, and is not told from what never was.

The routes are those of the application itself: one that is added is tried without anybody's doing, and fails
this test until it is said what its ids are (``Hers``) and what it takes (``BODIES``).
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pytest

from nsbox.api import scopes
from nsbox.api.app import create_app
from nsbox.model.account import Scope
from nsbox.settings import Settings
from tests.acceptance.plugin import Say
from tests.e2e.client import BASE, Answer, Api
from tests.e2e.daemon import Daemon
from tests.e2e.websocket import Refused, Socket
from tests.unit.api.fakes import Fakes

RULES = sorted(create_app(Fakes().services, Settings()).rules)
#: The host's, for everybody (ADR 0032); who may change them is a matter of scopes.
SHARED = frozenset({"path:name"})
_PARAMETER = re.compile(r"<([^>]*)>")
_ATTACH = "/attach"
_OCTETS = {"Content-Type": "application/octet-stream"}
#: What a request needs to be a good one, by the end of the rule, of one part or two; nothing or ``{}`` where
#: none is named.
BODIES: dict[str, Any] = {
    "POST /timeout": {"timeoutMs": 60_000},
    "POST /exec": {"command": "echo crossed"},
    "POST /processes": {"command": "echo crossed"},
    "POST /signal": {"signal": "KILL"},
    "PUT /files": {"content": "crossed"},
    "POST /ports": {"port": 81},
    "POST /fork": {"count": 1},
    "POST /push": {"to": "localhost:1/crossed:1"},
    "PATCH /<user_id>": {"disabled": True},
}
QUERIES = {"/files": "?path=/etc/passwd", "/files/ticket": "?path=/etc/passwd", "/stdin": "?close=true"}


class Hers(NamedTuple):
    """What a tenant has. The names are those of the parameters in rules."""

    sandbox_id: str
    key: str
    port: str
    snapshot_id: str
    key_id: str
    user_id: str


#: Ids of the right form that nobody ever had.
NOBODYS = Hers(
    "sb_" + "a" * 32, "cmd_" + "a" * 32, "80", "snap_" + "a" * 32, "key_" + "a" * 16, "us_" + "a" * 32
)


class World(NamedTuple):
    daemon: Daemon
    hers: Hers
    her_key: str
    his_key: str
    his: Hers


def made_key(daemon: Daemon, user: str, *more: str) -> str:
    made = daemon.nsbox_on_state("keys", "create", user, "--user", user, *more)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def furnish(api: Api) -> Hers:
    """A sandbox with one of everything."""
    sandbox = api.create()
    process = api.request("POST", f"/sandboxes/{sandbox}/processes", {"command": "exec cat", "stdin": "open"})
    assert process.status == 201, process
    assert api.request("POST", f"/sandboxes/{sandbox}/ports", {"port": 80}).status == 201
    snapshot = api.request("POST", f"/sandboxes/{sandbox}/snapshots")
    assert snapshot.status == 201, snapshot
    me = api.request("GET", "/me").json
    return Hers(sandbox, process.json["id"], "80", snapshot.json["id"], me["key"]["id"], me["user"]["id"])


@pytest.fixture(scope="module")
def world(own_daemon: Daemon) -> World:
    """He has every scope that a tenant can have. All of it ends with the daemon."""
    for name in ("alice", "mallory"):
        assert own_daemon.nsbox_on_state("users", "create", name).returncode == 0
    all_scopes = [word for scope in ("sandboxes", "files", "images") for word in ("--scope", scope)]
    her_key, his_key = made_key(own_daemon, "alice"), made_key(own_daemon, "mallory", *all_scopes)
    with own_daemon.api(her_key) as she, own_daemon.api(his_key) as he:
        hers, his = furnish(she), furnish(he)
        return World(own_daemon, hers, her_key, his_key, his)


def filled(rule: str, ids: Hers) -> str:
    """The path of a rule; a parameter that is not known here is the author's to explain."""
    return _PARAMETER.sub(lambda match: str(getattr(ids, match[1])), rule.removeprefix(BASE))


def by_end(table: dict[str, Any], rule: str, method: str = "", default: Any = None) -> Any:
    """What ``table`` has for the end of a rule; the longer end wins."""
    parts = rule.split("/")
    for end in ("/" + "/".join(parts[-2:]), "/" + parts[-1]):
        if (found := table.get(f"{method} {end}" if method else end)) is not None:
            return found
    return default


def parameters(rule: str) -> frozenset[str]:
    return frozenset(_PARAMETER.findall(rule))


def asked(api: Api, method: str, rule: str, ids: Hers) -> list[Answer]:
    """All the ways in which a rule is asked for."""
    end = "/" + rule.rsplit("/", 1)[1]
    path = filled(rule, ids) + by_end(QUERIES, rule, default="")
    body = by_end(BODIES, rule, method, None if method in ("GET", "DELETE") else {})
    answers = [api.request(method, path, body)]
    if end == "/files" and method == "GET":
        answers += [api.request("GET", f"{path}&raw=true"), api.request("GET", f"{path}&list=true")]
    if end == "/files" and method == "PUT":
        answers.append(api.request("PUT", path, raw=b"crossed", headers=_OCTETS))
    if end == "/exec":
        answers.append(api.request("POST", f"{path}?stream=true", body))
    if end == "/logs":
        answers += [api.request("GET", f"{path}?follow=true"), api.request("GET", f"{path}?raw=true")]
    return answers


def told(answer: Answer, ids: Hers) -> tuple[int, str]:
    """The answer without the ids that the client itself sent."""
    text = answer.body.decode()
    for one in ids:
        text = text.replace(one, "ID") if len(one) > 4 else text
    return answer.status, text


def is_for_administrators(method: str, rule: str) -> bool:
    return scopes.TABLE[method, rule].areas == {Scope.ADMIN}


def test_every_route_with_her_ids(world: World, figure: Say) -> None:
    pairs = crossings = 0
    with world.daemon.api(world.his_key) as he:
        for method, rule in RULES:
            if not parameters(rule) or parameters(rule) & SHARED or rule.endswith(_ATTACH):
                continue
            answers = asked(he, method, rule, world.hers)
            nobodys = asked(he, method, rule, NOBODYS)
            expected = 403 if is_for_administrators(method, rule) else 404
            for answer, nothing in zip(answers, nobodys, strict=True):
                pairs += 1
                crossed = answer.status != expected or told(answer, world.hers) != told(nothing, NOBODYS)
                crossings += crossed
                assert not crossed, (method, rule, answer, nothing)
            if method == "GET":
                head = he.request("HEAD", filled(rule, world.hers) + by_end(QUERIES, rule, default=""))
                assert head.status in (expected, 405), (rule, head)
                pairs += 1
    check_all_is_as_it_was(world)
    figure(6, tried=pairs, bad=crossings)


def test_his_own_sandbox_does_not_lead_to_her_things(world: World, figure: Say) -> None:
    """One id of his, one of hers: rules with two parameters."""
    pairs = 0
    with world.daemon.api(world.his_key) as he:
        for method, rule in RULES:
            if not {"sandbox_id", "key"} <= parameters(rule) or rule.endswith(_ATTACH):
                continue
            for ids in (
                world.hers._replace(sandbox_id=world.his.sandbox_id),
                world.hers._replace(key=world.his.key),
            ):
                for answer in asked(he, method, rule, ids):
                    assert answer.status == 404, (method, rule, answer)
                    pairs += 1
        wish = {"snapshot": world.hers.snapshot_id}
        answer = he.request("POST", "/sandboxes", wish)
        assert (answer.status, answer.code) == (404, "snapshot_not_found")
    check_all_is_as_it_was(world)
    figure(6, tried=pairs)


def test_nothing_of_hers_is_in_a_list(world: World) -> None:
    with world.daemon.api(world.his_key) as he:
        lists = [rule for method, rule in RULES if method == "GET" and not parameters(rule)]
        for rule in lists:
            for more in ("", "?status=all") if rule.endswith("/sandboxes") else ("",):
                answer = he.request("GET", rule.removeprefix(BASE) + more)
                if rule.endswith("/audit"):  # what he tried with her ids is his own doing
                    assert {one["userId"] for one in answer.json["events"]} == {world.his.user_id}
                    continue
                for one in world.hers:
                    assert len(one) < 5 or one.encode() not in answer.body, (rule, answer)
        assert "/api/v1/sandboxes" in lists


def test_the_administrator_is_a_tenant_too_until_told_otherwise(world: World) -> None:
    """Without the header her things are not there, with it they are."""
    acting = {"Nsbox-User": world.hers.user_id}
    with world.daemon.api() as boss:
        for method, rule in RULES:
            needed = parameters(rule)
            if rule.endswith(_ATTACH) or needed & SHARED or not needed & {"sandbox_id", "snapshot_id"}:
                continue
            for answer in asked(boss, method, rule, world.hers):
                assert answer.status == 404, (method, rule, answer)
        one = f"/sandboxes/{world.hers.sandbox_id}"
        assert boss.request("GET", one, headers=acting).status == 200
        assert one.rpartition("/")[2].encode() in boss.request("GET", "/sandboxes", headers=acting).body
    with world.daemon.api(world.his_key) as he:
        for named in (world.hers.user_id, world.his.user_id, "us_none"):
            answer = he.request("GET", one, headers={"Nsbox-User": named})
            assert (answer.status, answer.code) == (403, "forbidden")
    check_all_is_as_it_was(world)


def test_the_websocket(world: World) -> None:
    """By his key, and by a ticket of his for something else."""
    with world.daemon.api(world.his_key) as he:
        bearer = [("Authorization", f"Bearer {world.his_key}")]
        for ids in (world.hers, NOBODYS, world.hers._replace(sandbox_id=world.his.sandbox_id)):
            assert refusal(he, ids, bearer) == 404
        his = f"/sandboxes/{world.his.sandbox_id}/processes/{world.his.key}/ticket"
        ticket = he.request("POST", his).json
        protocols = [("Sec-WebSocket-Protocol", ", ".join(ticket["protocols"]))]
        assert refusal(he, world.hers, protocols) == 401
        assert refusal(he, world.his, protocols) == 401, "and a wrong try has used it up"
        Socket(f"http://{he.host}:{he.port}{BASE}", attach_path(world.his), bearer).close()
    check_all_is_as_it_was(world)


def attach_path(ids: Hers) -> str:
    return f"/sandboxes/{ids.sandbox_id}/processes/{ids.key}/attach"


def refusal(api: Api, ids: Hers, headers: list[tuple[str, str]]) -> int:
    with pytest.raises(Refused) as caught:
        Socket(f"http://{api.host}:{api.port}{BASE}", attach_path(ids), headers)
    return caught.value.status


def check_all_is_as_it_was(world: World) -> None:
    with world.daemon.api(world.her_key) as she:
        hers = world.hers
        sandbox = she.get(hers.sandbox_id)
        assert sandbox["status"] == "running"
        process = she.request("GET", f"/sandboxes/{hers.sandbox_id}/processes/{hers.key}")
        assert (process.status, process.json["status"]) == (200, "running"), process
        ports = she.request("GET", f"/sandboxes/{hers.sandbox_id}/ports").json
        assert [one["port"] for one in ports] == [80]
        assert she.request("GET", f"/snapshots/{hers.snapshot_id}").status == 200
        assert she.request("GET", f"/sandboxes/{hers.sandbox_id}/files?path=/etc/passwd").status == 200
        me = she.request("GET", "/me").json
        assert (me["key"]["revokedAt"], me["user"]["disabled"]) == (None, False)
