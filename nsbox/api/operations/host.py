"""Operations on the host: health, metrics, and this document itself."""

from __future__ import annotations

from nsbox.api import answers, parameters
from nsbox.api.operations import examples
from nsbox.api.operations.declare import BASE, JSON_TYPE, Answer, Content, Operation, json_of
from nsbox.model.errors import Code

_HEALTH = (
    *json_of(answers.HealthView, "Sandboxes can be made.", examples.HEALTH),
    *json_of(
        answers.HealthView,
        "They cannot.",
        {**examples.HEALTH, "status": "unavailable", "reasons": ["keeper_away"]},
        503,
    ),
)


def _health(name: str, path: str) -> Operation:
    return Operation(
        name=name,
        method="GET",
        path=path,
        tag="Host",
        summary="Whether sandboxes can be made now",
        answers=_HEALTH,
        key=False,
    )


OPERATIONS = (
    _health("health", "/healthz"),
    _health("health_of_api", f"{BASE}/healthz"),
    Operation(
        name="host_metrics",
        method="GET",
        path="/metrics",
        tag="Host",
        summary="Figures of the whole host, for Prometheus",
        text="For keys of the owners in the setting `metrics_readers`; without a key where that has `*`.",
        query=(parameters.SANDBOXES,),
        answers=(Answer("The text format 0.0.4.", (Content("text/plain"),)),),
        errors=(Code.FORBIDDEN,),
    ),
    Operation(
        name="openapi",
        method="GET",
        path="/openapi.json",
        tag="Host",
        summary="This document",
        headers=("If-None-Match",),
        answers=(
            Answer(
                "OpenAPI 3.1.", (Content(JSON_TYPE, answers.Document),), headers={"ETag": "Of this document."}
            ),
            Answer("It is as you know it.", status=304),
        ),
        key=False,
    ),
    Operation(
        name="docs",
        method="GET",
        path="/docs",
        tag="Host",
        summary="This document, for people",
        headers=("If-None-Match",),
        answers=(
            Answer("A page.", (Content("text/html"),), headers={"ETag": "Of this page."}),
            Answer("It is as you know it.", status=304),
        ),
        key=False,
    ),
)
