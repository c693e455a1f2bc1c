"""Answers of routes as they are agreed on, for pages of the dashboard that not every daemon has."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from tests.e2e.client import JSON

Answers = Callable[[str, str], tuple[int, JSON] | None]
_NOW = datetime.now(UTC)


def _ago(hours: float) -> str:
    return (_NOW - timedelta(hours=hours)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_ANN = {
    "id": "us_ann",
    "name": "ann",
    "role": "admin",
    "plan": "unlimited",
    "createdAt": _ago(900),
    "disabled": False,
}
_BOB = {
    "id": "us_bob",
    "name": "bob",
    "role": "user",
    "plan": "free",
    "createdAt": _ago(90),
    "disabled": False,
}
_CY = {
    "id": "us_cy",
    "name": "<b>cy</b>",
    "role": "user",
    "plan": "pro",
    "createdAt": _ago(9),
    "disabled": True,
}
_KEY = {
    "id": "key_1",
    "name": "first",
    "prefix": "nsbox_abc",
    "userId": "us_ann",
    "scopes": ["sandboxes", "files", "admin"],
    "createdAt": _ago(900),
    "expiresAt": None,
    "lastUsedAt": _ago(0.01),
    "revokedAt": None,
}
_OLD = {
    **_KEY,
    "id": "key_2",
    "name": "old",
    "expiresAt": _ago(-90),
    "lastUsedAt": None,
    "revokedAt": _ago(2),
}
_PLAN = {
    "name": "free",
    "computeSecondsPerMonth": 3600,
    "vcpus": 2,
    "memoryMb": 2048,
    "storageMb": None,
    "timeoutMs": 1800000,
    "sandboxes": None,
}
_USE = {
    "periodStart": _ago(500),
    "periodEnd": _ago(-200),
    "computeSeconds": 1234,
    "computeSecondsLimit": 3600,
}
_EVENT = {
    "id": 7,
    "at": _ago(1),
    "action": "create_sandbox",
    "userId": "us_ann",
    "keyId": "key_1",
    "sandboxId": f"sb_{'a' * 32}",
    "onBehalfOf": None,
    "target": None,
    "from": "127.0.0.1",
    "outcome": "done",
    "status": 201,
    "count": 1,
}


def _usage(query: str) -> JSON:
    by = query.rpartition("by=")[2].partition("&")[0] or "day"
    lines: dict[str, list[JSON]] = {
        "day": [
            {"day": (_NOW - timedelta(days=day)).strftime("%Y-%m-%d"), "computeSeconds": 100 + day * 37 % 700}
            for day in range(20)
        ],
        "sandbox": [
            {"sandboxId": f"sb_{'a' * 32}", "computeSeconds": 700},
            {"sandboxId": f"sb_{'b' * 32}", "computeSeconds": 3},
        ],
        "key": [{"keyId": "key_1", "computeSeconds": 703}, {"keyId": None, "computeSeconds": 2}],
        "total": [{"computeSeconds": 705}],
    }
    return {"from": _ago(720), "to": _ago(0), "by": by, "computeSeconds": 705, "usage": lines[by]}


def answers(method: str, path: str) -> tuple[int, JSON] | None:
    """Accounts, usage and audit; the rest is the daemon's own."""
    where, _, query = path.partition("?")
    if (method, where) == ("POST", "/keys"):
        return 201, {**_KEY, "name": "laptop", "key": "nsbox_shown_once"}
    found: dict[str, JSON] = {
        "/me": {"user": _ANN, "key": _KEY, "plan": _PLAN, "usage": _USE},
        "/keys": {"keys": [_KEY, _OLD]},
        "/users": {"users": [_ANN, _BOB, _CY]},
        "/audit": {
            "events": [_EVENT, {**_EVENT, "id": 6, "sandboxId": None, "outcome": "refused", "status": 403}],
            "next": None,
        },
    }
    if where == "/usage":
        return 200, _usage(query)
    if method == "GET" and where in found:
        return 200, found[where]
    return None


def many(count: int) -> Answers:
    """A daemon with so many sandboxes."""
    boxes = [
        {
            "id": f"sb_{index:032d}",
            "status": "paused" if index % 9 == 8 else "running",
            "vcpus": 2,
            "memoryMb": 512,
            "storageMb": 1024,
            "timeoutMs": 1800000,
            "templateId": "default",
            "region": "local",
            "createdAt": _ago(1),
            "expiresAt": _ago(-1),
        }
        for index in range(count)
    ]

    def sample(at: float, index: int) -> JSON:
        return {
            "at": _ago(at),
            "cpu": {"usedMs": 1, "throttledMs": 0, "percent": 40 + (index * 31 + at * 3000) % 120},
            "memory": {"bytes": (80 + (index * 7) % 300) << 20, "peakBytes": 1, "swapBytes": 0},
            "disk": {"bytes": 1, "inodes": 1},
            "network": {"receivedBytes": 1, "sentBytes": 1},
            "processes": 3,
        }

    def given(method: str, path: str) -> tuple[int, JSON] | None:
        if method != "GET":
            return None
        if path.partition("?")[0] == "/sandboxes":
            return 200, boxes
        if "/metrics" in path:
            index = int(path.split("_")[1][:32])
            return 200, {
                "now": sample(0, index),
                "history": [sample(one / 120, index) for one in range(30, 0, -1)],
            }
        return None

    return given
