"""Requests answered beside Quart: what Quart did for them is done for them still."""

from __future__ import annotations

import json

import pytest
import trio

from nsbox.model.sandbox import Sandbox, SandboxSpec
from tests.unit.api.client import head, running

BODY = b'{"templateId":"default"}'


async def test_head_is_get_without_its_body() -> None:
    async with running() as server:
        sandbox = await server.sandbox()
        for target in ("/sandboxes", f"/sandboxes/{sandbox}"):
            got, head_ = await server.ask("GET", target), await server.ask("HEAD", target)
            assert (head_.status, head_.body) == (200, b"")
            assert head_.headers["content-length"] == str(len(got.body))


async def test_what_was_made_is_located() -> None:
    async with running() as server:
        made = await server.ask("POST", "/sandboxes", {})
        assert made.status == 201
        assert made.headers["location"] == f"/api/v1/sandboxes/{json.loads(made.body)['id']}"
        assert made.headers["content-type"] == "application/json"


@pytest.mark.parametrize("target", ["/sandboxes?a=1", "/sandboxes/sb_x/files?path=/a&b=1"])
async def test_parameters_that_are_not_known_are_named(target: str) -> None:
    async with running() as server:
        answer = await server.ask("GET", target)
        assert (answer.status, answer.code) == (400, "invalid_request")


async def test_a_client_that_leaves_cancels_its_create(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would know the sandbox's id."""
    begun, cancelled = trio.Event(), trio.Event()

    async def create(owner: str, spec: SandboxSpec) -> Sandbox:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()
        raise AssertionError

    async with running() as server:
        monkeypatch.setattr(server.fakes.services.creations, "create", create)
        async with await server.connect() as stream:
            length = {"Content-Length": str(len(BODY)), "Content-Type": "application/json"}
            await stream.send_all(head("POST", "/sandboxes", length) + BODY)
            with trio.fail_after(30):
                await begun.wait()
        with trio.fail_after(30):
            await cancelled.wait()
