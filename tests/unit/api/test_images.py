from __future__ import annotations

import json
import os
from typing import Any

import trio

from nsbox.model.errors import Code, HostProblem, Problem
from nsbox.model.image import PullPolicy
from nsbox.settings import Settings
from tests.unit.api.client import Answer, Server, running
from tests.unit.api.fake_images import DIGEST
from tests.unit.api.fakes import OTHER_KEY


def events(answer: Answer) -> list[tuple[str, Any]]:
    found = []
    for block in answer.body.decode().split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith(":")]
        if lines:
            name, data = lines
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def pulled(server: Server, name: str, **more: Any) -> Answer:
    return await server.ask("POST", "/images", {"image": name}, **more)


async def test_pull_look_and_remove() -> None:
    async with running() as server:
        answer = await pulled(server, "localhost:5000/a/b")
        view = answer.json()
        assert answer.status == 200
        assert (view["image"], view["digest"]) == ("localhost:5000/a/b:latest", DIGEST)
        assert view["config"]["env"] == {"A": "1"}
        assert (view["sizeBytes"], view["downloadBytes"]) == (20, 10)
        one = await server.ask("GET", "/images/localhost:5000/a/b:latest")
        assert one.json() == view
        everything = (await server.ask("GET", "/images")).json()
        assert everything["images"] == [view]
        assert everything["disk"]["reclaimableBytes"] == 4
        gone = await server.ask("DELETE", "/images/localhost:5000/a/b:latest")
        assert gone.json() == {"image": "localhost:5000/a/b:latest", "removed": True}
        missing = await server.ask("GET", "/images/localhost:5000/a/b:latest")
        assert (missing.status, missing.code) == (404, "image_not_found")


async def test_progress_as_events() -> None:
    async with running() as server:
        answer = await pulled(server, "alpine", headers={"Accept": "text/event-stream"})
        assert answer.headers["content-type"] == "text/event-stream"
        found = events(answer)
        assert found[0] == ("progress", {"stage": "resolving"})
        assert found[1][1] == {"stage": "downloading", "layer": DIGEST, "current": 5, "total": 10}
        assert (found[2][0], found[2][1]["image"]) == ("image", "docker.io/library/alpine:latest")


async def test_a_problem_is_the_last_event() -> None:
    async with running() as server:
        server.fakes.images.error = Problem(Code.IMAGE_REFUSED, "not good", field="image")
        answer = await pulled(server, "alpine", headers={"Accept": "text/event-stream"})
        kind, problem = events(answer)[-1]
        assert (answer.status, kind, problem["code"], problem["status"]) == (
            200,
            "problem",
            "image_refused",
            422,
        )
        plain = await pulled(server, "alpine")
        assert (plain.status, plain.code) == (422, "image_refused")
        server.fakes.images.error = HostProblem("/secret/path is full")
        hidden = await pulled(server, "alpine", headers={"Accept": "text/event-stream"})
        assert b"/secret" not in hidden.body


async def test_who_may_change_images() -> None:
    async with running() as server:
        for method, path, body in (
            ("POST", "/images", {"image": "alpine"}),
            ("DELETE", "/images/alpine", None),
            ("POST", "/images/prune", {}),
            ("POST", "/images/import", b"x"),
            ("POST", "/templates", {"name": "x", "image": "alpine"}),
        ):
            answer = await server.ask(method, path, body, key=OTHER_KEY)
            assert (answer.status, answer.code) == (403, "forbidden"), path
        assert server.fakes.images.pulled == []
        assert (await server.ask("GET", "/images", key=OTHER_KEY)).status == 200
        assert (await server.ask("GET", "/templates", key=OTHER_KEY)).status == 200


async def test_what_cannot_be_asked() -> None:
    async with running() as server:
        for body, field in (
            ({}, "image"),
            ({"image": "Not A Name"}, "image"),
            ({"image": "a", "x": 1}, "x"),
            ({"image": 5}, "image"),
        ):
            answer = await server.ask("POST", "/images", body)
            assert (answer.status, answer.code, answer.json()["field"]) == (422, "invalid_field", field)
        assert (await server.ask("PUT", "/images", {})).status == 405
        assert (await server.ask("GET", "/images/a%2fb")).status == 404
        assert (await server.ask("POST", "/images?x=1", {"image": "a"})).status == 400


async def test_prune() -> None:
    async with running() as server:
        answer = await server.ask("POST", "/images/prune")
        assert answer.json() == {"images": ["x"], "layers": 2, "freedBytes": 7}
        await server.ask("POST", "/images/prune", {"all": True})
        assert server.fakes.images.pruned == [False, True]


async def test_import() -> None:
    async with running() as server:
        data = bytes(range(256)) * 20_000
        octets = {"Content-Type": "application/octet-stream"}
        answer = await server.ask("POST", "/images/import?name=a:b", data, headers=octets)
        assert answer.status == 200
        name, head = server.fakes.images.imported[0]
        assert (name, head) == ("a:b", data[: 1 << 20])
        try:
            os.fstat(server.fakes.images.spooled)
        except OSError:
            pass
        else:
            raise AssertionError("the spool is still open")


async def test_an_archive_that_is_too_large() -> None:
    small = Settings(max_image_bytes=1000)
    async with running(settings=small) as server:
        for chunked in (False, True):
            answer = await server.ask("POST", "/images/import", b"x" * 2000, chunked=chunked)
            assert (answer.status, answer.code) == (413, "body_too_large")
        assert server.fakes.images.imported == []


async def test_an_archive_for_which_there_is_no_room() -> None:
    """Told before it is taken in where its length is known, else on the way."""
    async with running() as server:
        for chunked in (False, True):
            server.fakes.images.room = 3 << 20
            answer = await server.ask("POST", "/images/import", bytes(5 << 20), chunked=chunked)
            assert (answer.status, answer.code) == (503, "host_full")
            assert (server.fakes.images.room == 3 << 20) is not chunked
        assert server.fakes.images.imported == []


async def test_build() -> None:
    async with running() as server:
        wish = {"name": "mine", "image": "alpine", "setup": ["apk add x"], "env": {"A": "b"}, "user": "1:1"}
        answer = await server.ask("POST", "/templates", wish)
        assert answer.json() == {"id": "mine", "image": "alpine", "layers": 2, "ready": True}
        assert server.fakes.building.built[0].setup == ("apk add x",)
        told = events(await server.ask("POST", "/templates", wish, headers={"Accept": "text/event-stream"}))
        assert told[0] == ("progress", {"step": "run something"})
        assert told[1][0] == "template"
        server.fakes.building.error = Problem(Code.BUILD_FAILED, "no", stderr="why")
        # Often: the error comes while an event is on its way, and once took the head of the answer with it.
        for _ in range(20):
            told = events(
                await server.ask("POST", "/templates", wish, headers={"Accept": "text/event-stream"})
            )
            assert (told[-1][0], told[-1][1]["stderr"]) == ("problem", "why")
        for wrong, field in (
            ({"name": "", "image": "a"}, "name"),
            ({"name": "default", "image": "a"}, "name"),
            ({"name": "x", "image": "A B"}, "image"),
            ({"name": "x", "image": "a", "workdir": "w"}, "workdir"),
            ({"name": "x", "image": "a", "setupTimeoutS": 0}, "setup_timeout_s"),
        ):
            refused = await server.ask("POST", "/templates", wrong)
            assert (refused.status, refused.json()["field"]) == (422, field)


async def test_a_client_that_leaves_ends_no_pull() -> None:
    async with running() as server:
        server.fakes.images.hang = trio.Event()
        stream = await server.connect()
        body = b'{"image":"alpine"}'
        from tests.unit.api.client import head

        await stream.send_all(head("POST", "/images", {"Content-Length": str(len(body))}) + body)
        with trio.fail_after(5):
            while not server.fakes.images.pulled:
                await trio.sleep(0.001)
        await stream.aclose()
        server.fakes.images.hang.set()
        assert (await pulled(server, "alpine")).status == 200


async def test_pull_policy_of_a_create() -> None:
    async with running() as server:
        for text, policy in (("never", PullPolicy.NEVER), ("always", PullPolicy.ALWAYS)):
            assert (await server.ask("POST", "/sandboxes", {"image": "a", "pull": text})).status == 201
            assert server.fakes.sandboxes.specs[-1].pull is policy
        answer = await server.ask("POST", "/sandboxes", {"image": "a", "pull": "sometimes"})
        assert (answer.status, answer.json()["field"]) == (422, "pull")


async def test_an_image_is_pushed() -> None:
    async with running() as server:
        answer = await server.ask("POST", "/images/push", {"image": "alpine", "to": "localhost:5000/a:1"})
        assert answer.status == 200
        assert (answer.json()["image"], answer.json()["digest"]) == ("localhost:5000/a:1", DIGEST)
        assert [one["outcome"] for one in answer.json()["layers"]] == ["present", "mounted", "uploaded"]
        assert answer.json()["sentBytes"] == 10, "of what was uploaded"
        assert (await server.ask("POST", "/images/push", {"image": "alpine"})).status == 200
        assert server.fakes.pushes.asked == [("alpine", "localhost:5000/a:1"), ("alpine", None)]
        wrong = await server.ask("POST", "/images/push", {"to": "a"})
        assert (wrong.status, wrong.json()["field"]) == (422, "image")
        other = await server.ask("GET", "/images/push")
        assert (other.status, other.headers["allow"]) == (405, "POST")


async def test_a_push_as_events() -> None:
    async with running() as server:
        wish, headers = {"image": "alpine"}, {"Accept": "text/event-stream"}
        found = events(await server.ask("POST", "/images/push", wish, headers=headers))
        assert [name for name, _ in found] == ["progress", "progress", "pushed"]
        assert found[1][1] == {"stage": "uploading", "layer": DIGEST, "current": 5, "total": 10}
        server.fakes.pushes.error = Problem(Code.PUSH_REFUSED, "no", field="to")
        found = events(await server.ask("POST", "/images/push", wish, headers=headers))
        assert (found[-1][0], found[-1][1]["code"]) == ("problem", "push_refused")
        assert (await server.ask("POST", "/images/push", wish)).status == 422
