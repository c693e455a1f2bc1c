from __future__ import annotations

import random
from collections import Counter

from hypothesis import example, given
from hypothesis import strategies as st

from nsbox.model.period import day_name, day_number, month_of, parse_day
from nsbox.model.usage import (
    DAY,
    SECOND,
    Entry,
    Fold,
    Meter,
    Moment,
    Run,
    bill,
    by_day,
    runs_out,
    whole_seconds,
)
from tests.unit.model.histories import BEGIN, EVENTS, LENGTHS, Event, World, happen


def billed(world: World) -> Counter[tuple[int, str]]:
    cells = bill(world.entries, world.now)
    found = Counter({(cell.day, cell.sandbox): cell.seconds for cell in cells})
    assert len(found) == len(cells)
    return +found


# ---- one sandbox


def history(*steps: tuple[float, str], boot: str = "b", wall: int = BEGIN) -> list[Entry]:
    """Entries at so many seconds."""
    found, before = [], ""
    for seq, (at, after) in enumerate(steps):
        ticks = round(at * SECOND)
        found.append(Entry(seq + 1, "sb_1", "us_1", "key_1", before, after, wall + ticks, boot, ticks))
        before = after
    return found


def cost(entries: list[Entry], at: float = 1e6, boot: str = "b") -> int:
    now = Moment(BEGIN + round(at * SECOND), boot, round(at * SECOND))
    return sum(cell.seconds for cell in bill(entries, now))


def test_creating_and_failing_are_free() -> None:
    assert cost(history((0, "creating"), (30, "failed"))) == 0


def test_a_second_begun_is_a_second() -> None:
    assert cost(history((0, "creating"), (9, "running"), (9.000001, "stopping"), (20, "stopped"))) == 1
    assert cost(history((0, "running"), (1, "stopping"))) == 1
    assert cost(history((0, "running"), (1.000001, "stopping"))) == 2
    assert cost(history((5, "running"), (5, "stopping"))) == 0


def test_what_runs_is_billed_up_to_now() -> None:
    assert cost(history((0, "running")), at=10.5) == 11
    assert cost(history((0, "running")), at=10.5, boot="another") == 0


def test_a_moment_before_the_beginning_takes_nothing_away() -> None:
    """Moments are taken before rows are written, so a reading may be a little older than what it reads. That
    would be a negative run: seconds already used would be fewer, and the next ones free."""
    meter = Meter("us_1", "key_1", ran=3 * SECOND, since=Moment(BEGIN, "b", 10 * SECOND))
    before = Moment(BEGIN, "b", 10 * SECOND - 1)
    assert meter.until(before) == Run(3 * SECOND, BEGIN, 0)
    assert meter.until(before._replace(ticks=10 * SECOND + 1)) == Run(3 * SECOND, BEGIN, 1)
    paused = Entry(2, "sb_1", "us_1", "key_1", "running", "paused", *before._replace(ticks=8 * SECOND))
    assert meter.after(paused) == Meter("us_1", "key_1", ran=3 * SECOND)
    steps = [
        (0, "running"),
        (0.5, "paused"),
        (10, "running"),
        (8, "paused"),
        (20, "running"),
        (20.6, "stopping"),
    ]
    assert cost(history(*steps)) == 2  # 0.5 s and 0.6 s
    assert runs_out(3, [meter], 5, before) == before.ticks + 2 * SECOND


def test_paused_time_is_free_and_pauses_round_nothing_up() -> None:
    steps: list[tuple[float, str]] = []
    for second in range(100):
        steps += [(second, "running"), (second + 0.1, "paused")]
    assert cost(history(*steps)) == 10
    assert cost(history((0, "running"), (0.5, "paused"), (9_000, "running"), (9_000.5, "stopping"))) == 1


def test_a_second_belongs_to_the_day_in_which_it_begins() -> None:
    midnight = BEGIN + DAY
    assert list(by_day(Run(0, midnight - SECOND // 2, SECOND))) == [(midnight // DAY - 1, 1)]
    assert list(by_day(Run(0, midnight - SECOND // 2, SECOND + 1))) == [
        (midnight // DAY - 1, 1),
        (midnight // DAY, 1),
    ]
    # Half of its first second is over: the second begins half a second from now, on the next day.
    assert list(by_day(Run(SECOND // 2, midnight - SECOND // 4, 3 * SECOND))) == [(midnight // DAY, 3)]
    assert list(by_day(Run(0, BEGIN, 3 * DAY))) == [(BEGIN // DAY + n, 86_400) for n in range(3)]


@given(st.integers(0, 10 * DAY), st.integers(-DAY, 3 * DAY), st.integers(0, 4 * DAY))
def test_days_share_out_exactly_the_seconds_that_begin(ran: int, wall: int, length: int) -> None:
    parts = list(by_day(Run(ran, wall, length)))
    assert sum(seconds for _, seconds in parts) == whole_seconds(ran + length) - whole_seconds(ran)
    assert all(seconds > 0 for _, seconds in parts)
    assert [day for day, _ in parts] == sorted({day for day, _ in parts})
    assert all((wall - SECOND) // DAY <= day <= (wall + length) // DAY for day, _ in parts)


# ---- histories

_RARE = ("api_dies", "keeper_dies", "host_dies", "set_clock")


@given(EVENTS)
@example([Event(0, "create", 0, 0), Event(0, "ready", 0, 0), Event(5 * SECOND, "keeper_dies", 0, DAY)])
def test_the_bill_of_any_history_is_what_it_cost(events: list[Event]) -> None:
    world = World()
    for event in events:
        happen(world, event)
        assert billed(world) == world.cost()


def test_the_bill_of_a_random_month() -> None:
    """Some fifty sandboxes a day, each with its ups and downs, and a crash or a wrong clock now and then."""
    chance = random.Random(2026_11)
    world = World()
    while world.true < BEGIN + 30 * DAY:
        what = chance.choices(
            ["create", "ready", "pause", "resume", "kill", "gone", *_RARE],
            [8, 12, 8, 8, 9, 9, 1, 0.3, 0.2, 0.3],
        )[0]
        length = round(chance.expovariate(1 / 60) * SECOND)
        happen(world, Event(round(chance.expovariate(1 / 240) * SECOND), what, chance.randrange(8), length))
    assert len(world.entries) > 5_000
    assert sum(world.cost().values()) > 100_000
    assert billed(world) == world.cost()


@given(EVENTS, st.integers(0, 60), st.lists(LENGTHS, max_size=5))
def test_the_wall_clock_changes_no_total(events: list[Event], place: int, skews: list[int]) -> None:
    """The same history, in which somebody plays with the clock: the same seconds of each sandbox."""
    steady, wild = World(), World()
    for index, event in enumerate(one for one in events if one.what != "set_clock"):
        happen(steady, event)
        if index >= place and skews:
            wild.set_clock(skews[index % len(skews)] * (-1) ** index)
        happen(wild, event)
    assert per_sandbox(billed(steady)) == per_sandbox(billed(wild))


def per_sandbox(cells: Counter[tuple[int, str]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for (_, sandbox), seconds in cells.items():
        found[sandbox] += seconds
    return found


@given(EVENTS, st.data())
def test_a_fold_goes_on_from_the_meters_of_another(events: list[Event], data: st.DataObject) -> None:
    world = World()
    for event in events:
        happen(world, event)
    cut = data.draw(st.integers(0, len(world.entries)))
    first = Fold()
    for entry in world.entries[:cut]:
        first.take(entry)
    second = Fold(dict(first.meters))
    for entry in world.entries[cut:]:
        second.take(entry)
    second.look(world.now)
    assert +(Counter(first.seconds) + Counter(second.seconds)) == billed(world)


# ---- when it is over


@given(
    st.lists(st.tuples(st.integers(0, 5 * SECOND), st.integers(0, 9 * SECOND)), max_size=5),
    st.integers(0, 40),
)
def test_it_runs_out_when_one_second_too_many_begins(lives: list[tuple[int, int]], allowed: int) -> None:
    now = Moment(BEGIN, "b", 100 * SECOND)
    meters = [Meter("us", "key", ran, Moment(BEGIN, "b", now.ticks - length)) for ran, length in lives]

    def used(ticks: int) -> int:
        return sum(
            whole_seconds(meter.ran + ticks - meter.since.ticks)
            for meter in meters
            if meter.since is not None
        )

    out = runs_out(used(now.ticks), meters, allowed, now)
    if not meters:
        assert out is None
        return
    assert out is not None
    if used(now.ticks) > allowed:
        assert out == now.ticks
        return
    assert out >= now.ticks
    assert used(out) <= allowed < used(out + 1)


def test_nothing_runs_out_where_nothing_runs() -> None:
    paused = Meter("us", "key", 5 * SECOND, None)
    assert runs_out(9, [paused], 3, Moment(BEGIN, "b", 0)) is None


# ---- periods


def test_months_and_days() -> None:
    period = month_of(BEGIN / SECOND)
    assert (day_name(period.begin), day_name(period.end)) == ("2026-11-01", "2026-12-01")
    december = month_of(period.ends_at)
    assert (day_name(december.begin), day_name(december.end)) == ("2026-12-01", "2027-01-01")
    assert month_of(period.ends_at - 0.001) == period
    assert period.begins_at * SECOND == BEGIN


def test_a_day_is_read_as_it_is_written() -> None:
    november = parse_day("2026-11-01")
    assert november is not None
    assert day_name(november) == "2026-11-01"
    for same in ("2026-11-01T00:00:00Z", "2026-11-01T00:00:00.000Z", "2026-11-01T00:00:00+00:00"):
        assert parse_day(same) == november
    for wrong in ("", "x", "2026-13-01", "2026-11-01T00:00:00", "2026-11-01T12:00:00Z", "20261101",
                  "2026-11-01T00:00:00+02:00", "2026-W44-7", "1793491200", "２０２６-11-01"):  # fmt: skip
        assert parse_day(wrong) is None, wrong


@given(st.dates())
def test_any_day_survives(day: object) -> None:
    text = str(day)
    number = parse_day(text)
    assert number is not None
    assert day_name(number) == text
    assert day_number(__import__("datetime").date.fromisoformat(text)) == number
