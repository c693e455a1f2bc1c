"""Answers, held to the OpenAPI document: the clients of the tests check each one they get, so that whatever
any test provokes must be as the document says.

Where the validator is not installed (in the test host's machine) nothing is checked.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import cache
from typing import Any

from nsbox.api import openapi
from nsbox.api.operations import match
from nsbox.settings import Settings

try:
    import jsonschema_rs
except ImportError:  # pragma: no cover
    jsonschema_rs = None  # type: ignore[assignment]

Checker = Callable[[str, str, int, dict[str, str], bytes], None]
#: Told by the gate, wherever a request leads.
_EVERYWHERE = frozenset({"method_not_allowed", "route_not_found", "missing_key", "invalid_key"})
_OPEN = frozenset({"Problem"})


def checker(*, ids: bool = True) -> Checker:
    """``ids``: whether ids look as those of a real daemon do."""
    return _check_nothing if jsonschema_rs is None else _Document(ids).check


def _check_nothing(method: str, target: str, status: int, headers: dict[str, str], body: bytes) -> None:
    pass


def close(schemas: dict[str, Any]) -> None:
    """Clients must bear members that the document does not have; tests must not."""
    for name, told in schemas.items():
        if "properties" in told and name not in _OPEN:
            told["additionalProperties"] = False


class _Document:
    def __init__(self, ids: bool) -> None:
        self.made = copy.deepcopy(openapi.document(Settings(state_dir="/nonexistent")))
        close(self.made["components"]["schemas"])
        if not ids:
            _drop_patterns(self.made)
        self._validator = cache(self._make)

    def _make(self, name: str, status: str, kind: str) -> Any:
        operation = self._operation(name)
        told = operation["responses"][status]["content"][kind].get("schema", {})
        return jsonschema_rs.Draft202012Validator({**told, "components": self.made["components"]})

    def _operation(self, name: str) -> Any:
        return next(
            one for item in self.made["paths"].values() for one in item.values() if one["operationId"] == name
        )

    def check(self, method: str, target: str, status: int, headers: dict[str, str], body: bytes) -> None:
        """Raises ``AssertionError`` when the document does not allow the answer."""
        path = target.partition("?")[0]
        operation = match.operation("GET" if method == "HEAD" else method, path)
        kind = headers.get("content-type", "").partition(";")[0].strip()
        where = f"{method} {path} answered {status} {kind}"
        problem = json.loads(body) if kind == "application/problem+json" and method != "HEAD" else None
        if operation is None or status == 405 or (problem is not None and problem["code"] in _EVERYWHERE):
            return  # that every route is an operation is another test's business
        told = self._operation(operation.name)["responses"].get(str(status))
        assert told is not None, f"{where}, which the document does not have: {body[:300]!r}"
        if method == "HEAD" or not kind:
            return
        if problem is not None and kind not in told["content"]:
            return  # /healthz has an answer of its own with that status
        assert kind in told["content"], f"{where}, which the document does not have"
        if not kind.endswith("json"):
            return
        value = json.loads(body)
        errors = [
            f"{'/'.join(map(str, error.instance_path))}: {error.message}"
            for error in self._validator(operation.name, str(status), kind).iter_errors(value)
        ]
        assert not errors, f"{where}: {errors[:3]} in {body[:600]!r}"


def _drop_patterns(value: Any) -> None:
    if isinstance(value, dict):
        value.pop("pattern", None)
        value.pop("format", None)
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _drop_patterns(one)
