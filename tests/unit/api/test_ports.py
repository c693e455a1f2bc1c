"""``/sandboxes/:id/ports`` as clients see it."""

from __future__ import annotations

from typing import Any

import pytest

from nsbox.model.ports import PortSpec, Protocol
from tests.unit.api.client import running


async def test_as_the_seed_shows_it() -> None:
    async with running() as server:
        ports = f"/sandboxes/{await server.sandbox()}/ports"
        first = await server.ask("POST", ports, {"port": 8080})
        again = await server.ask("POST", ports, {"port": 8080})
        assert (first.status, again.status) == (201, 200)
        assert first.json() == {
            "port": 8080, "url": "http://preview-8080/", "protocol": "http", "public": True,
        }  # fmt: skip
        listed = await server.ask("GET", ports)
        assert listed.json() == [first.json()]
        gone = await server.ask("DELETE", f"{ports}/8080")
        assert (gone.status, gone.json()) == (200, {"port": 8080, "deleted": True})
        missing = await server.ask("DELETE", f"{ports}/8080")
        assert (missing.status, missing.code) == (404, "port_not_exposed")


async def test_wishes() -> None:
    async with running() as server:
        ports = f"/sandboxes/{await server.sandbox()}/ports"
        told = await server.ask("POST", ports, {"port": 1, "protocol": "tcp", "waitMs": 0})
        assert told.json() == {
            "port": 1, "url": "http://preview-1/", "protocol": "tcp", "public": True, "hostPort": 30_000,
            "listening": True,
        }  # fmt: skip
        await server.ask("POST", ports, {"port": 2, "public": False})
        assert server.fakes.ports.wishes == [
            PortSpec(port=1, protocol=Protocol.TCP, wait_ms=0), PortSpec(port=2, public=False),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "port"), ({"port": 0}, "port"), ({"port": 65_536}, "port"), ({"port": "80"}, "port"),
        ({"port": 80.5}, "port"), ({"port": True}, "port"), ({"port": 80, "waitMs": -1}, "waitMs"),
        ({"port": 80, "waitMs": 300_001}, "waitMs"), ({"port": 80, "protocol": "udp"}, "protocol"),
        ({"port": 80, "protocol": "tcp", "public": False}, "public"), ({"port": 80, "x": 1}, "x"),
    ],
)  # fmt: skip
async def test_wrong_wishes(body: dict[str, Any], field: str) -> None:
    async with running() as server:
        answer = await server.ask("POST", f"/sandboxes/{await server.sandbox()}/ports", body)
        assert (answer.status, answer.code, answer.json()["field"]) == (422, "invalid_field", field)


async def test_links() -> None:
    async with running() as server:
        links = f"/sandboxes/{await server.sandbox()}/ports/8080/links"
        told = await server.ask("POST", links)
        assert (told.status, told.json()) == (
            201, {"url": "http://preview-8080/?t", "expiresAt": "2026-03-13T13:00:00.000Z"},
        )  # fmt: skip
        longer = await server.ask("POST", links, {"expiresInS": 7200})
        assert longer.json()["expiresAt"] == "2026-03-13T14:00:00.000Z"
        for wrong in (0, 30 * 86_400 + 1, "1"):
            answer = await server.ask("POST", links, {"expiresInS": wrong})
            assert (answer.status, answer.json()["field"]) == (422, "expiresInS")


@pytest.mark.parametrize("port", ["x", "0", "65536", "123456", "-1", "8_0", "1.5"])
async def test_paths_that_name_no_port(port: str) -> None:
    async with running() as server:
        answer = await server.ask("DELETE", f"/sandboxes/{await server.sandbox()}/ports/{port}")
        assert (answer.status, answer.json()["field"]) == (422, "port")
