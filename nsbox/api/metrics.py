"""``GET /sandboxes/:id/metrics``, and ``GET /metrics`` for Prometheus in its text format 0.0.4."""

from __future__ import annotations

from quart import Response
from quart_trio import QuartTrio

from nsbox.api import answers, parameters, query, views
from nsbox.api.admission import Admission
from nsbox.api.exchange import Exchange
from nsbox.api.middleware import BASE
from nsbox.api.routing import call, reply
from nsbox.api.services import Services
from nsbox.model.errors import Code, Problem
from nsbox.model.metrics import Family, Point

PATH = "/metrics"
#: Among the owners who may read them: everybody, without a key.
ANYBODY = "*"
_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_KNOWN = parameters.names((parameters.SANDBOXES,))
_HISTORY = parameters.names((parameters.HISTORY,))
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})


def add(app: QuartTrio, services: Services) -> None:
    """Add the route of each sandbox."""

    async def metrics(sandbox_id: str) -> Response:
        asked = call(_HISTORY)
        record, now, history = await services.meters.get(asked.owner, sandbox_id)
        view: answers.MetricsView = {"id": record.id, "status": record.state, "now": views.sample(now)}
        if parameters.HISTORY.of(asked.query):
            view["history"] = [views.sample(one) for one in history]
        return reply(view)

    app.add_url_rule(f"{BASE}/sandboxes/<sandbox_id>/metrics", "sandbox_metrics", metrics, methods=["GET"])


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
    families = await services.figures.families(sandboxes=parameters.SANDBOXES.of(asked))
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
