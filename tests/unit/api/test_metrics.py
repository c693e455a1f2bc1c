"""The metrics' routes: who may read them, and what they look like."""

from __future__ import annotations

import pytest

from nsbox.api.metrics import text
from nsbox.model.metrics import Family, Point
from nsbox.service.tally import BOUNDS, Counter, Histogram, Tally
from nsbox.settings import Settings
from tests.exposition import parse
from tests.unit.api.client import running
from tests.unit.api.fakes import OTHER_KEY


def test_the_parser_is_strict() -> None:
    good = '# HELP a_total x\n# TYPE a_total counter\na_total{b="c\\n\\"\\\\"} 1\n'
    assert parse(good).value("a_total", b='c\n"\\') == 1
    for bad in (
        good[:-1],
        good + good,
        good + "b 1\n",
        good.replace("counter", "summary"),
        good.replace(" 1", " -1"),
        good.replace(" 1", " one"),
        good.replace('\\"', '"'),
        good.replace("a_total x", "b_total x"),
        good.replace("} 1", "}  1"),
        good + 'a_total{b="c\\n\\"\\\\"} 2\n',
    ):
        with pytest.raises(ValueError, match=r"."):
            parse(bad)


def test_all_that_is_counted_can_be_read() -> None:
    tally = Tally()
    assert parse(text(tally.families())).value("nsbox_command_failures_total") == 0
    tally.creates.add("made")
    tally.creates.add("made", by=2)
    tally.failures.add()
    for seconds in (0.0, 0.002, 0.003, 299, 301):
        tally.create_seconds.observe(seconds)
    found = parse(text(tally.families()))
    assert found.value("nsbox_creates_total", result="made") == 3
    assert found.value("nsbox_command_failures_total") == 1
    assert found.value("nsbox_create_seconds_bucket", le="0.002") == 2
    assert found.value("nsbox_create_seconds_bucket", le="0.005") == 3
    assert found.value("nsbox_create_seconds_bucket", le="300.0") == 4
    assert found.value("nsbox_create_seconds_bucket", le="+Inf") == 5
    assert found.value("nsbox_create_seconds_count") == 5
    assert found.value("nsbox_create_seconds_sum") == pytest.approx(600.005)
    assert list(BOUNDS) == sorted(BOUNDS)


def test_what_failed_took_no_time() -> None:
    histogram = Histogram("nsbox_x_seconds", "X.")
    with pytest.raises(ZeroDivisionError), histogram.timed():
        1 / 0  # noqa: B018
    assert parse(text([histogram.family()])).value("nsbox_x_seconds_count") == 0


def test_labels_are_escaped_and_empty_families_left_out() -> None:
    odd = 'a"b\\c\nd'
    counter = Counter("nsbox_odd_total", "Odd.", "name")
    assert text([counter.family()]) == ""
    counter.add(odd)
    told = text([counter.family(), Family("nsbox_g", "gauge", "G.", (Point(0.5),))])
    assert parse(told).value("nsbox_odd_total", name=odd) == 1


async def test_who_may_read_them() -> None:
    async with running() as server:
        answer = await server.ask("GET", "//metrics")
        assert (answer.status, parse(answer.body.decode()).value("nsbox_x")) == (200, 1)
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        told = await server.ask("GET", "//metrics?sandboxes=true")
        assert parse(told.body.decode()).value("nsbox_x", sandbox='a"b\\c\nd') == 1
        assert (await server.ask("GET", "//metrics", key=None)).code == "missing_key"
        assert (await server.ask("GET", "//metrics", key=OTHER_KEY)).code == "forbidden"
        assert (await server.ask("GET", "//metrics?x=1")).code == "invalid_request"
        assert (await server.ask("POST", "//metrics")).code == "method_not_allowed"
    async with running(Settings(metrics_readers=("bob",))) as server:
        assert (await server.ask("GET", "//metrics", key=OTHER_KEY)).status == 200
    async with running(Settings(metrics_readers=("*",))) as server:
        assert (await server.ask("GET", "//metrics", key=None)).status == 200


async def test_of_one_sandbox() -> None:
    async with running() as server:
        sandbox = await server.sandbox()
        told = (await server.ask("GET", f"/sandboxes/{sandbox}/metrics")).json()
        assert told["now"]["cpu"] == {"usedMs": 1500, "throttledMs": None, "percent": 12.5}
        assert told["now"]["memory"] == {"bytes": 4096, "peakBytes": None, "swapBytes": None}
        assert len(told["history"]) == 1
        assert (
            "history" not in (await server.ask("GET", f"/sandboxes/{sandbox}/metrics?history=false")).json()
        )
