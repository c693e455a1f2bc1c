"""``GET /sandboxes/:id/metrics``, and ``GET /metrics`` for Prometheus in its text format 0.0.4."""

from __future__ import annotations

from typing import Any

from quart import Response
from quart_trio import QuartTrio

from nsbox.api import query, views
from nsbox.api.admission import Admission
from nsbox.api.exchange import Exchange
from nsbox.api.middleware import BASE
from nsbox.api.routing import call, reply
from nsbox.api.services import Services
from nsbox.model.errors import Code, Problem
from nsbox.model.metrics import Family, Point, Sample

PATH = "/metrics"
#: Among the owners who may read them: everybody, without a key.
ANYBODY = "*"
_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_KNOWN = frozenset({"sandboxes"})
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})
JSON = dict[str, Any]


def add(app: QuartTrio, services: Services) -> None:
    """Add the route of each sandbox."""

    async def metrics(sandbox_id: str) -> Response:
        asked = call(frozenset({"history"}))
        wanted = query.flag(asked.query, "history") if "history" in asked.query else True
        record, now, history = await services.meters.get(asked.owner, sandbox_id)
        view: JSON = {"id": record.id, "status": record.state.value, "now": _sample(now)}
        if wanted:
            view["history"] = [_sample(one) for one in history]
        return reply(view)

    app.add_url_rule(f"{BASE}/sandboxes/<sandbox_id>/metrics", "sandbox_metrics", metrics, methods=["GET"])


def _sample(sample: Sample) -> JSON:
    """What is null cannot be told on this host."""
    used = sample.reading
    return {
        "at": views.iso(sample.at),
        "cpu": {
            "usedMs": _ms(used.cpu_us),
            "throttledMs": _ms(used.throttled_us),
            "percent": sample.cpu_percent,
        },
        "memory": {"bytes": used.memory, "peakBytes": used.memory_peak, "swapBytes": used.swap},
        "io": {"readBytes": used.io_read, "writtenBytes": used.io_written},
        "processes": used.processes,
        "network": {"receivedBytes": used.received, "sentBytes": used.sent},
        "disk": {"bytes": used.disk, "inodes": used.inodes},
    }


def _ms(microseconds: int | None) -> int | None:
    return None if microseconds is None else microseconds // 1000


async def scrape(
    exchange: Exchange, services: Services, admission: Admission, readers: tuple[str, ...]
) -> None:
    """Answer Prometheus: keys with the scope ``admin``, which may be read-only, and those of users whom the
    operator named. Behind a reverse proxy on this host every client comes from the loopback, so where
    a request comes from opens nothing: a key does, or the setting that asks for none."""
    if exchange.scope["method"] not in ("GET", "HEAD"):
        raise Problem(Code.METHOD_NOT_ALLOWED, "metrics are asked for with GET", allowed=["GET", "HEAD"])
    if ANYBODY not in readers:
        caller = admission.admit(exchange)
        if not (caller.may_act_for_others or {caller.user.id, caller.user.name} & set(readers)):
            raise Problem(
                Code.FORBIDDEN,
                "the metrics of the whole host are not for this key",
                remedy="use one with the scope admin, or ask the operator (the setting metrics_readers)",
            )
    asked = query.parse(exchange.scope["query_string"], _KNOWN)
    families = await services.figures.families(sandboxes=query.flag(asked, "sandboxes"))
    await exchange.answer(200, [(b"content-type", _TYPE)], text(families).encode())


def text(families: list[Family]) -> str:
    """The exposition format. A family without a value is left out whole."""
    lines = []
    for family in families:
        if family.points:
            lines.append(f"# HELP {family.name} {family.help}")
            lines.append(f"# TYPE {family.name} {family.kind}")
            lines += [_line(family.name, point) for point in family.points]
    return "\n".join([*lines, ""])


def _line(name: str, point: Point) -> str:
    labels = ",".join(f'{key}="{value.translate(_ESCAPES)}"' for key, value in point.labels)
    return f"{name}{point.suffix}{'{' + labels + '}' if labels else ''} {point.value!r}"
