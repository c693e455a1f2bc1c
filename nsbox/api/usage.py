"""``GET /usage``: what sandboxes have cost, as JSON or CSV."""

from __future__ import annotations

import msgspec
import trio
from quart import Response
from quart_trio import QuartTrio

from nsbox.api import parameters, views
from nsbox.api.middleware import BASE
from nsbox.api.routing import call
from nsbox.api.services import Services
from nsbox.model.period import day_name
from nsbox.service.usage import Report
from nsbox.store.ledger import By

_KNOWN = parameters.names(parameters.USAGE)
_ENCODER = msgspec.json.Encoder()
#: What a line is named by. The total has one line, and that no name.
_NAMES = {By.DAY: "day", By.SANDBOX: "sandboxId", By.KEY: "keyId"}


def add(app: QuartTrio, services: Services) -> None:
    """Add the route."""

    async def usage() -> Response:
        asked = call(_KNOWN)
        csv = parameters.USAGE_FORMAT.of(asked.query) == "csv"
        by = By(parameters.USAGE_BY.of(asked.query) or By.DAY)
        begin, end = parameters.BEGIN_DAY.of(asked.query), parameters.END_DAY.of(asked.query)
        report = await services.usage.report(asked.owner, begin, end, by)
        # There may be a line for each of very many sandboxes, and one thread has all the clients.
        body = await trio.to_thread.run_sync(_csv if csv else _json, report)
        answer = Response(body, content_type="text/csv; charset=utf-8" if csv else "application/json")
        if csv:
            answer.headers["Content-Disposition"] = f'attachment; filename="{_file_name(report)}"'
        return answer

    app.add_url_rule(f"{BASE}/usage", "usage", usage, methods=["GET"])


def _named(report: Report) -> list[tuple[str | None, int]]:
    """A sandbox of before there were bills has no key."""
    if report.by is By.DAY:
        return [(day_name(int(name)), seconds) for name, seconds in report.lines]
    return [(name or None, seconds) for name, seconds in report.lines]


def _json(report: Report) -> bytes:
    name = _NAMES.get(report.by)
    total = [{"computeSeconds": report.total}]
    lines = [{name: value, "computeSeconds": seconds} for value, seconds in _named(report)] if name else total
    return _ENCODER.encode(
        {
            "from": views.iso(report.period.begins_at),
            "to": views.iso(report.period.ends_at),
            "by": report.by.value,
            "computeSeconds": report.total,
            "usage": lines,
        }
    )


def _csv(report: Report) -> bytes:
    """RFC 4180. Ids and days need no quoting."""
    name = _NAMES.get(report.by)
    if name is None:
        return f"computeSeconds\r\n{report.total}\r\n".encode()
    rows = [f"{value or ''},{seconds}" for value, seconds in _named(report)]
    return "\r\n".join([f"{name},computeSeconds", *rows, ""]).encode()


def _file_name(report: Report) -> str:
    return f"usage-{day_name(report.period.begin)}-by-{report.by.value}.csv"
