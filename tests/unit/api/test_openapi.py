"""The registry of operations against the real routes, and the document against the real behaviour."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import validate

from nsbox.api import openapi, saving, schema, websocket
from nsbox.api.app import create_app
from nsbox.api.exchange import Exchange
from nsbox.api.operations import BY_NAME, OPERATIONS, match
from nsbox.api.operations.declare import BASE, OCTETS, Content, Operation
from nsbox.api.problems import TABLE
from nsbox.api.reference import page
from nsbox.model.errors import Code
from nsbox.settings import Settings
from tests.unit.api.client import Server, running
from tests.unit.api.fakes import Fakes

jsonschema_rs = pytest.importorskip("jsonschema_rs")

SETTINGS = Settings(state_dir="/nonexistent", shutdown_grace_s=1)
DOCUMENT = openapi.document(SETTINGS)
SAMPLE = {
    "sandboxId": "sb_x",
    "processId": "cmd_x",
    "snapshotId": "snap_x",
    "image": "alpine",
    "port": "80",
    "keyId": "key_x",
    "userId": "us_x",
}
WITH_BODY = [one for one in OPERATIONS if any(content.type is not None for content in one.body)]
JSON = dict[str, Any]


def plain(path: str) -> str:
    """A path without the names of what varies in it."""
    return re.sub(r"<[^>]+>|\{[^}]+\}", "*", path)


def target(one: Operation) -> str:
    """A request of this operation, with ids of nothing."""
    return one.path.format(**SAMPLE)


def asked(one: Operation) -> Exchange:
    kind = OCTETS if any(content.kind == OCTETS for content in one.body) else "application/json"
    where = target(one)
    scope = {
        "type": "http",
        "method": one.method,
        "path": where,
        "raw_path": where.encode(),
        "query_string": b"raw=true" if one.name == "read_file" else b"",
        "headers": [(b"content-type", kind.encode())],
    }
    return Exchange(scope, None, None)  # type: ignore[arg-type]


# ---- every route is in the registry


def test_names_and_places_are_unique() -> None:
    assert len(BY_NAME) == len(OPERATIONS)
    assert len({(one.method, plain(one.path)) for one in OPERATIONS}) == len(OPERATIONS)


def test_every_route_is_an_operation() -> None:
    gate = create_app(Fakes().services, SETTINGS)
    app: Any = gate._routes
    left = dict(BY_NAME)
    for rule in app.url_map.iter_rules():
        (method,) = (rule.methods or set()) - {"HEAD", "OPTIONS"}
        assert rule.endpoint in BY_NAME, f"{method} {rule.rule} has no Operation in nsbox/api/operations"
        one = left.pop(rule.endpoint)
        assert (one.method, plain(one.path)) == (method, plain(rule.rule))
    for raw in gate._raw_routes:
        served = [one.name for one in OPERATIONS if raw.takes(asked(one))]
        assert served, f"the raw route {raw} has no Operation in nsbox/api/operations"
        for name in served:
            left.pop(name, None)  # files are read and written by two routes each
    for path in gate._outside:
        if path in ("/", saving.PATH) or ("." in path and path != "/openapi.json"):
            continue  # the dashboard, what it saves, and files of a page
        (name,) = [one.name for one in OPERATIONS if one.path == path]
        del left[name]
    attach = left.pop("attach_process")
    assert websocket.ROUTE.fullmatch(target(attach))
    assert sorted(left) == ["health", "health_of_api"], "operations without a route"


def test_every_code_that_an_operation_has_is_in_the_table() -> None:
    used = {code for one in OPERATIONS for code in one.codes()}
    assert used <= set(TABLE)
    # Told of every path, of none yet, or in a way that no answer has.
    assert set(Code) - used == {Code.METHOD_NOT_ALLOWED, Code.NO_TERMINAL}


# ---- the document


def test_the_document_is_openapi() -> None:
    validate(DOCUMENT)
    assert DOCUMENT["openapi"] == "3.1.0"
    text = json.dumps(DOCUMENT)
    assert schema.SETTING not in text
    assert "View" not in "".join(DOCUMENT["components"]["schemas"])
    for name in re.findall(r'"#/components/schemas/(\w+)"', text):
        assert name in DOCUMENT["components"]["schemas"]


def contents() -> list[tuple[str, Content, JSON]]:
    found = []
    for one in OPERATIONS:
        told = DOCUMENT["paths"][one.path][one.method.lower()]
        for content in one.body:
            found.append((f"{one.name} body", content, told["requestBody"]["content"][content.kind]))
        for answer in one.answers:
            for content in answer.contents:
                where = told["responses"][str(answer.status)]["content"][content.kind]
                found.append((f"{one.name} {answer.status}", content, where))
    return found


@pytest.mark.parametrize(
    ("content", "told"), [part[1:] for part in contents()], ids=[c[0] for c in contents()]
)
def test_examples_are_valid(content: Content, told: JSON) -> None:
    if content.kind == "application/json" and content.type is not dict:
        assert ("example" in told) or content.type == dict[str, Any], "JSON has an example"
    if "example" not in told:
        return
    complete = {**told["schema"], "components": DOCUMENT["components"]}
    jsonschema_rs.Draft202012Validator(complete).validate(told["example"])
    kinds = content.type if isinstance(content.type, tuple) else (content.type,)
    assert msgspec.convert(told["example"], kinds[0]) is not None


def test_bounds_are_the_settings() -> None:
    settings = msgspec.structs.replace(SETTINGS, vcpus=msgspec.structs.replace(SETTINGS.vcpus, high=77))
    members = openapi.document(settings)["components"]["schemas"]["CreateSandbox"]["properties"]
    assert members["vcpus"]["anyOf"][0]["maximum"] == 77


# ---- what it says is what happens


async def prepared(server: Server, one: Operation) -> str:
    """A target whose sandbox is there."""
    sandbox = await server.sandbox()
    return one.path.format(**{**SAMPLE, "sandboxId": sandbox})


def at(path: str) -> str:
    return path.removeprefix(BASE) if path.startswith(f"{BASE}/") else f"/{path}"


@pytest.mark.parametrize("one", OPERATIONS, ids=lambda one: one.name)
async def test_query_parameters_are_those_that_are_known(one: Operation) -> None:
    if one.name == "attach_process" or not one.key:
        pytest.skip("asked without a query, or not over plain HTTP")
    settings = msgspec.structs.replace(SETTINGS, metrics_readers=("ann",))
    async with running(settings) as server:
        where = await prepared(server, one)
        body: Any = next((content.example for content in one.body if content.example is not None), None)
        headers = {}
        if any(content.kind == OCTETS for content in one.body):
            headers, body = {"Content-Type": OCTETS}, b"x"
        key = {"headers": headers} if headers else {}
        answer = await server.ask(one.method, f"{at(where)}?no_such=1", body, **key)
        assert (answer.status, answer.code) == (400, "invalid_request"), answer
        known = re.search(r"known: ([^)]*)", answer.json()["detail"])
        assert known is not None
        expected = ", ".join(sorted(parameter.name for parameter in one.query)) or "none"
        assert known[1] == expected


@pytest.mark.parametrize("one", OPERATIONS, ids=lambda one: one.name)
async def test_a_key_is_needed_where_the_document_says_so(one: Operation) -> None:
    async with running() as server:
        answer = await server.ask(one.method, at(target(one)), key=None)
        assert (answer.status == 401) is one.key


def bounded(kind: Any) -> list[tuple[str, int, int]]:
    """Members of a body with their bounds, as the document has them."""
    properties = DOCUMENT["components"]["schemas"][kind.__name__]["properties"]
    found = []
    for name, told in properties.items():
        for part in (told, *told.get("anyOf", ())):
            if "maximum" in part:
                found.append((name, part["minimum"], part["maximum"]))
    return found


@pytest.mark.parametrize("one", WITH_BODY, ids=lambda one: one.name)
async def test_the_body_of_the_document_is_the_body_that_is_read(one: Operation) -> None:
    (content,) = [content for content in one.body if content.type is not None]
    properties = DOCUMENT["components"]["schemas"][content.type.__name__]["properties"]
    query = "?path=/a" if one.name == "write_file" else ""
    async with running(SETTINGS) as server:
        where = at(await prepared(server, one)) + query
        unknown = await server.ask(one.method, where, {**content.example, "noSuch": 1})
        assert (unknown.status, unknown.json()["field"]) == (422, "noSuch")
        for name in properties:  # of no member any type is an array of arrays
            wrong = await server.ask(one.method, where, {**content.example, name: [[]]})
            assert wrong.status == 422, (name, wrong)
            assert wrong.json()["field"].startswith(name)
        for name, low, high in bounded(content.type):
            for value in (low - 1, high + 1):
                refused = await server.ask(one.method, where, {**content.example, name: value})
                told = refused.json()
                assert (refused.status, told["field"]) == (422, name)
                assert (told["minimum"], told["maximum"]) == (low, high)


@pytest.mark.parametrize("path", sorted({one.path for one in OPERATIONS}))
async def test_a_method_that_a_path_does_not_have(path: str) -> None:
    here = {one.method for one in OPERATIONS if plain(one.path) == plain(path)}
    async with running() as server:
        for method in {"GET", "POST", "PUT", "DELETE", "PATCH"} - here:
            where = target(next(one for one in OPERATIONS if one.path == path))
            if match.operation(method, where) is not None:
                continue  # of a path that is less literal
            answer = await server.ask(method, at(where))
            assert (answer.status, answer.code) == (405, "method_not_allowed"), (method, answer)
            allowed = set(answer.headers["allow"].split(", "))
            assert allowed - {"HEAD"} == here, (method, allowed)


# ---- how it is served


async def test_the_document_is_for_everybody_and_for_caches() -> None:
    async with running() as server:
        answer = await server.ask("GET", "//openapi.json", key=None)
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json() == json.loads(json.dumps(DOCUMENT))
        assert answer.headers["cache-control"] == "no-cache"
        tag = answer.headers["etag"]
        for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = await server.ask("GET", "//openapi.json", key=None, headers={"If-None-Match": known})
            assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
        changed = await server.ask("GET", "//openapi.json", key=None, headers={"If-None-Match": '"other"'})
        assert changed.status == 200
        head = await server.ask("HEAD", "//openapi.json", key=None)
        assert (head.status, head.body, head.headers["etag"]) == (200, b"", tag)
        refused = await server.ask("POST", "//openapi.json", key=None)
        assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")


class Links(HTMLParser):
    """What a page points to, and what it must not have."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.anchors: list[str] = []
        self.names: list[str] = []
        self.inline: list[str] = []
        self._script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        self._script = tag == "script"
        self.inline += [name for name in told if name.startswith("on") or name == "style"]
        self.inline += [tag] if tag == "style" else []
        if tag in ("script", "link", "img"):
            self.loaded.append(told.get("src") or told["href"])
        elif tag == "a":
            self.anchors.append(told["href"])
        if "id" in told:
            self.names.append(told["id"])

    def handle_data(self, data: str) -> None:
        if self._script and data.strip():
            self.inline.append(data)


async def test_the_page_needs_nothing_from_elsewhere_and_no_script() -> None:
    async with running() as server:
        answer = await server.ask("GET", "//docs", key=None)
        assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        links = Links()
        links.feed(answer.body.decode())
        assert links.inline == []
        assert links.loaded == ["/docs/page.css", "/docs/page.js"]
        assert len(set(links.names)) == len(links.names)
        assert {one.removeprefix("#") for one in links.anchors if one.startswith("#")} <= set(links.names)
        assert set(BY_NAME) <= set(links.names)
        for path in links.loaded:
            assert (await server.ask("GET", f"/{path}", key=None)).status == 200
        for path in [one for one in links.anchors if not one.startswith("#")]:
            assert (await server.ask("GET", f"/{path}", key=None)).status == 200


def test_what_is_in_the_document_is_escaped_in_the_page() -> None:
    hostile = json.loads(json.dumps(DOCUMENT).replace("Create a sandbox", "<img src=x onerror=y>'\\\"&"))
    assert "<img" not in page.render(hostile)
