"""``GET /usage``: what sandboxes have cost, as JSON or CSV."""

from __future__ import annotations

import msgspec
import trio
from quart import Response
from quart_trio import QuartTrio

from nsbox.api import query, views
from nsbox.api.middleware import BASE
from nsbox.api.routing import call
from nsbox.api.services import Services
from nsbox.model.errors import Code, Problem
from nsbox.model.period import day_name, parse_day
from nsbox.service.usage import Report
from nsbox.store.ledger import By

_KNOWN = frozenset({"from", "to", "by", "format"})
_ENCODER = msgspec.json.Encoder()
#: What a line is named by. The total has one line, and that no name.
_NAMES = {By.DAY: "day", By.SANDBOX: "sandboxId", By.KEY: "keyId"}


def add(app: QuartTrio, services: Services) -> None:
    """Add the route."""

    async def usage() -> Response:
        asked = call(_KNOWN)
        csv = _choice(asked.query, "format", ("json", "csv")) == "csv"
        by = By(_choice(asked.query, "by", tuple(By)))
        begin, end = _day(asked.query, "from"), _day(asked.query, "to")
        report = await services.usage.report(asked.owner, begin, end, by)
        # There may be a line for each of very many sandboxes, and one thread has all the clients.
        body = await trio.to_thread.run_sync(_csv if csv else _json, report)
        answer = Response(body, content_type="text/csv; charset=utf-8" if csv else "application/json")
        if csv:
            answer.headers["Content-Disposition"] = f'attachment; filename="{_file_name(report)}"'
        return answer

    app.add_url_rule(f"{BASE}/usage", "usage", usage, methods=["GET"])


def _choice(asked: query.Query, name: str, known: tuple[str, ...]) -> str:
    """One of them; the first where nothing is said."""
    value = query.text(asked, name)
    if value is None:
        return known[0]
    if value not in known:
        raise Problem(Code.INVALID_FIELD, f"{name} is one of: {', '.join(known)}", field=name)
    return value


def _day(asked: query.Query, name: str) -> int | None:
    value = query.text(asked, name)
    if value is None:
        return None
    day = parse_day(value)
    if day is None:
        raise Problem(
            Code.INVALID_FIELD,
            f"{name} is a day (UTC), not {value[:80]!r}",
            field=name,
            remedy=f"write it as {name}=2026-11-25; usage is counted by whole days",
        )
    return day


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
