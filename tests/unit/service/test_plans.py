"""What plans allow, and what happens when compute seconds are used up. Time passes as the test says."""

from __future__ import annotations

import time

import msgspec
import pytest
import trio

from nsbox.model.errors import Code, HostProblem, Problem
from nsbox.model.lifecycle import Action, State
from nsbox.model.period import Period, month_of
from nsbox.model.sandbox import Limits, Sandbox, SandboxSpec
from nsbox.model.standby import Standby
from nsbox.model.usage import DAY, SECOND, Moment
from nsbox.service.plans import Budget
from nsbox.service.pulse import Pulse
from nsbox.service.quotas import Quotas
from nsbox.service.usage import Usage
from nsbox.settings import Plan, Settings
from nsbox.store.ledger import By
from tests.unit.model.histories import BEGIN
from tests.unit.service.conftest import Service
from tests.unit.service.fakes import SPEC, until
from tests.unit.service.test_sandboxes import problem_of

PLANS = {
    "tiny": Plan(
        compute_seconds=5, vcpus=2, memory_mb=1024, storage_mb=2048, timeout_ms=120_000, sandboxes=2
    ),
    "small": Plan(compute_seconds=5),
    "larger": Plan(compute_seconds=50),
    "none": Plan(compute_seconds=0),
}


class Time:
    """The clock of the service: half past eleven in the last night of November, and standing still."""

    def __init__(self) -> None:
        self.wall, self.ticks = BEGIN + 30 * DAY - 1800 * SECOND, 1000 * SECOND

    def __call__(self) -> Moment:
        return Moment(self.wall, "boot", self.ticks)

    def go_on(self, seconds: float) -> None:
        self.wall += round(seconds * SECOND)
        self.ticks += round(seconds * SECOND)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, plans=PLANS, default_plan="small", max_sandboxes=100)


@pytest.fixture
async def clock(service: Service) -> Time:
    found = service.now = Time()
    service.keeper.cgroup = "/nowhere"
    return found


@pytest.fixture
async def quotas(service: Service, clock: Time) -> Quotas:
    return Quotas(service.plans, service.registry, service.sandboxes.pauses, service.nursery, clock)


def state(service: Service, sandbox: Sandbox) -> State:
    live = service.registry.find(sandbox.id)
    assert live is not None
    return live.record.state


async def is_paused(service: Service, *made: Sandbox) -> None:
    await until(lambda: all(state(service, one) is State.PAUSED for one in made))
    await until(lambda: {one.id for one in made} <= service.keeper.frozen)


async def used(service: Service, owner: str = "ann") -> int:
    return (await service.plans.budget(owner)).used


# ---- caps


@pytest.mark.parametrize(
    ("field", "limits", "timeout_ms"),
    [
        ("vcpus", Limits(vcpus=3, memory_mb=1024, storage_mb=1024, pids=1), 1),
        ("memoryMb", Limits(vcpus=1, memory_mb=1025, storage_mb=1024, pids=1), 1),
        ("storageMb", Limits(vcpus=1, memory_mb=1, storage_mb=2049, pids=1), 1),
        ("timeoutMs", Limits(vcpus=2, memory_mb=1024, storage_mb=2048, pids=1), 120_001),
    ],
)
async def test_more_than_the_plan_allows_is_refused(
    service: Service, clock: Time, field: str, limits: Limits, timeout_ms: int
) -> None:
    spec = msgspec.structs.replace(SPEC, limits=limits, timeout_ms=timeout_ms)
    service.plan_names["ann"] = "tiny"
    problem = await problem_of(service.sandboxes.create("ann", spec))
    assert (problem.code, problem.field) == (Code.PLAN_LIMIT, field)
    assert service.keeper.log == []
    assert len(service.registry) == 0
    assert (await service.sandboxes.create("bob", spec)).state is State.RUNNING


async def test_time_is_capped_later_too(service: Service, clock: Time) -> None:
    service.plan_names["ann"] = "tiny"
    made = await service.sandboxes.create("ann", SPEC)
    pauses = service.sandboxes.pauses
    problem = await problem_of(pauses.set_timeout("ann", made.id, 120_001))
    assert (problem.code, problem.field) == (Code.PLAN_LIMIT, "timeoutMs")
    assert (await pauses.set_timeout("ann", made.id, 120_000)).timeout_ms == 120_000


async def test_so_many_at_once_and_paused_ones_count(service: Service, clock: Time) -> None:
    service.plan_names["ann"] = "tiny"
    first = await service.sandboxes.create("ann", SPEC)
    await service.sandboxes.pauses.pause("ann", first.id)
    await service.sandboxes.create("ann", SPEC)
    problem = await problem_of(service.sandboxes.create("ann", SPEC))
    assert (problem.code, problem.field) == (Code.PLAN_LIMIT, "sandboxes")
    problem = await problem_of(service.sandboxes.check("ann", SPEC, 1))
    assert problem.field == "sandboxes"
    await service.sandboxes.create("bob", SPEC)  # somebody else's do not count
    await service.sandboxes.kill("ann", first.id)
    await service.sandboxes.create("ann", SPEC)


async def test_many_who_ask_at_once_get_so_many(service: Service, clock: Time) -> None:
    service.plan_names["ann"] = "tiny"
    service.keeper.create_gate = trio.Event()
    results: list[object] = []

    async def ask() -> None:
        try:
            results.append(await service.sandboxes.create("ann", SPEC))
        except Problem as problem:
            results.append(problem.field)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
        await until(lambda: len(results) == 3)
        service.keeper.create_gate.set()
    assert results[:3] == ["sandboxes"] * 3
    assert service.keeper.count("create") == 2


async def test_a_smaller_plan_lets_only_so_many_be_resumed(service: Service, clock: Time) -> None:
    made = [await service.sandboxes.create("ann", SPEC) for _ in range(3)]
    pauses = service.sandboxes.pauses
    await pauses.pause("ann", made[0].id)
    service.plan_names["ann"] = "tiny"
    problem = await problem_of(pauses.resume("ann", made[0].id))
    assert (problem.code, problem.field) == (Code.PLAN_LIMIT, "sandboxes")
    await pauses.pause("ann", made[1].id)
    assert (await pauses.resume("ann", made[0].id)).state is State.RUNNING


async def test_defaults_are_what_the_plan_allows(service: Service, settings: Settings) -> None:
    service.plan_names["ann"] = "tiny"
    narrow = service.plans.settings_for("ann")
    assert narrow.timeout_ms.default == 120_000
    assert narrow.timeout_ms.high == settings.timeout_ms.high  # what is above the plan is told as that
    assert narrow.memory_mb == settings.memory_mb
    assert service.plans.settings_for("bob") is settings


async def test_a_plan_that_is_gone_is_the_operators_fault(service: Service, clock: Time) -> None:
    service.plan_names["ann"] = "gone"
    with pytest.raises(HostProblem, match="there is no plan 'gone'"):
        await service.sandboxes.create("ann", SPEC)


async def test_what_builds_templates_has_no_plan(service: Service, clock: Time) -> None:
    assert service.plans.name_of("\0builder") == "unlimited"


# ---- compute seconds


async def test_the_plan_and_the_month_so_far(service: Service, clock: Time, settings: Settings) -> None:
    service.plan_names["ann"] = "tiny"
    await service.sandboxes.create("ann", SPEC)
    clock.go_on(2.5)
    plan, use = await service.plans.of("ann")
    assert (plan.name, plan.compute_seconds_per_month, plan.vcpus, plan.sandboxes) == ("tiny", 5, 2, 2)
    assert (use.compute_seconds, use.compute_seconds_limit) == (3, 5)
    assert (use.period_start * SECOND, use.period_end * SECOND) == (BEGIN, BEGIN + 30 * DAY)
    service.plan_names["bob"] = "unlimited"
    plan, use = await service.plans.of("bob")
    assert (plan.compute_seconds_per_month, use.compute_seconds_limit) == (None, None)
    assert (plan.vcpus, plan.sandboxes) == (settings.vcpus.high, settings.max_sandboxes)


async def test_who_runs_out_is_paused_and_refused_until_the_month_is_over(
    service: Service, clock: Time, quotas: Quotas
) -> None:
    one, two = [await service.sandboxes.create("ann", SPEC) for _ in range(2)]
    other = await service.sandboxes.create("bob", SPEC)
    clock.go_on(1)
    assert await quotas.look() <= 1
    clock.go_on(0.9)
    await quotas.look()
    assert state(service, one) is State.RUNNING  # 4 of 5 have begun
    clock.go_on(0.07)  # the next two begin in 30 ms, and one of them is one too many
    await quotas.look()
    await is_paused(service, one, two)
    assert await used(service) == 4
    assert state(service, other) is State.RUNNING
    clock.go_on(1000)
    assert await used(service) == 4  # pause is free
    # One second is left. It is had whole, and meanwhile nothing else may run.
    await service.sandboxes.pauses.resume("ann", one.id)
    clock.go_on(0.5)
    assert await used(service) == 5
    problem = await problem_of(service.sandboxes.pauses.resume("ann", two.id))
    assert (problem.code, problem.facts["renewsAt"]) == (Code.QUOTA_EXHAUSTED, "2026-12-01T00:00:00.000Z")
    await quotas.look()
    assert state(service, one) is State.RUNNING
    clock.go_on(0.5)
    await quotas.look()
    await is_paused(service, one)
    assert await used(service) == 5
    for refused in (
        service.sandboxes.create("ann", SPEC),
        service.sandboxes.check("ann", SPEC, 1),
        service.sandboxes.pauses.resume("ann", one.id),
    ):
        problem = await problem_of(refused)
        assert problem.code is Code.QUOTA_EXHAUSTED
        assert problem.facts["computeSecondsLimit"] == 5
    clock.go_on(1800)
    assert await used(service) == 0
    assert (await service.sandboxes.pauses.resume("ann", one.id)).state is State.RUNNING
    await service.sandboxes.create("ann", SPEC)


async def test_another_plan_lets_it_go_on(service: Service, clock: Time, quotas: Quotas) -> None:
    one = await service.sandboxes.create("ann", SPEC)
    clock.go_on(6)
    await quotas.look()
    await is_paused(service, one)
    service.plan_names["ann"] = "larger"
    await service.sandboxes.pauses.resume("ann", one.id)
    await quotas.look()
    service.plan_names["ann"] = "small"  # and back: noticed though nothing has moved
    await quotas.look()
    await is_paused(service, one)


async def test_who_is_woken_by_a_request_is_not_for_nothing(
    service: Service, clock: Time, quotas: Quotas
) -> None:
    spec = msgspec.structs.replace(SPEC, standby=Standby(auto_resume=True))
    one = await service.sandboxes.create("ann", spec)
    clock.go_on(6)
    await quotas.look()
    await is_paused(service, one)
    problem = await problem_of(service.registry.usable("ann", one.id, Action.EXEC))
    assert problem.code is Code.QUOTA_EXHAUSTED
    assert state(service, one) is State.PAUSED
    service.plan_names["ann"] = "unlimited"
    await service.registry.usable("ann", one.id, Action.EXEC)
    assert state(service, one) is State.RUNNING


async def test_a_new_month_is_a_new_budget_for_who_runs(
    service: Service, clock: Time, quotas: Quotas
) -> None:
    clock.go_on(1797.5)
    one = await service.sandboxes.create("ann", SPEC)
    await quotas.look()
    clock.go_on(5.4)
    await quotas.look()
    assert state(service, one) is State.RUNNING  # 3 seconds began in November, 3 in December
    assert await used(service) == 3
    clock.go_on(2.57)
    await quotas.look()
    await is_paused(service, one)


async def test_a_pause_that_fails_is_tried_again_and_billed_until_then(
    service: Service, clock: Time, quotas: Quotas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nsbox.service.quotas._AGAIN", 0)
    one = await service.sandboxes.create("ann", SPEC)
    service.keeper.freeze_fails = True
    clock.go_on(5)
    await quotas.look()
    await until(lambda: not quotas._pausing)
    assert state(service, one) is State.RUNNING
    clock.go_on(5)
    service.keeper.freeze_fails = False
    await quotas.look()
    await is_paused(service, one)
    assert await used(service) == 10


async def test_nothing_may_be_made_with_no_seconds_at_all(service: Service, clock: Time) -> None:
    service.plan_names["ann"] = "none"
    assert (await problem_of(service.sandboxes.create("ann", SPEC))).code is Code.QUOTA_EXHAUSTED
    assert len(service.registry) == 0
    assert service.sandboxes._wanted.total() == 0


async def test_it_watches_by_itself(service: Service, nursery: trio.Nursery) -> None:
    """With the real clocks: five seconds are shared out among six."""
    service.keeper.cgroup = "/nowhere"
    quotas = Quotas(service.plans, service.registry, service.sandboxes.pauses, service.nursery)
    nursery.start_soon(quotas.watch)
    made = [await service.sandboxes.create("ann", SPEC) for _ in range(5)]
    with trio.fail_after(30):
        while not all(state(service, one) is State.PAUSED for one in made):
            await trio.sleep(0.01)
    assert await used(service) == 5
    nursery.cancel_scope.cancel()


async def test_nothing_is_read_while_nothing_changes(
    service: Service, clock: Time, quotas: Quotas, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    budget = service.plans.budget

    async def counted(owner: str) -> Budget:
        reads.append(owner)
        return await budget(owner)

    monkeypatch.setattr(service.plans, "budget", counted)
    for owner in ("ann", "bob"):
        await service.sandboxes.create(owner, SPEC)
    service.plan_names["cid"] = "unlimited"
    await service.sandboxes.create("cid", SPEC)
    reads.clear()
    for _ in range(5):
        assert await quotas.look() <= 1
        clock.go_on(0.5)
    assert sorted(reads) == ["ann", "bob"]
    quotas._changed = trio.Event()
    await service.sandboxes.create("cid", SPEC)
    assert not quotas._changed.is_set()
    await service.sandboxes.create("bob", SPEC)
    assert quotas._changed.is_set()
    for live in service.registry.all():
        await service.sandboxes.kill(live.record.owner, live.record.id)
    assert await quotas.look() > 1


# ---- crashes


async def test_api_dies_and_the_bill_goes_on(service: Service, clock: Time) -> None:
    one = await service.sandboxes.create("ann", msgspec.structs.replace(SPEC, key="key_1"))
    clock.go_on(1)
    service.start()
    await service.sandboxes.reconcile((one.id,))
    clock.go_on(1.5)
    usage = Usage(service.ledger, clock)
    assert (await usage.report("ann", None, None, By.KEY)).lines == [("key_1", 3)]


async def test_keeper_dies_and_the_bill_ends_at_the_last_pulse(service: Service, clock: Time) -> None:
    one = await service.sandboxes.create("ann", SPEC)
    pulse = Pulse(service.ledger, service.registry, Answered(), clock)
    await pulse.begin()
    clock.go_on(2)
    await pulse.beat()
    clock.go_on(0.7)
    service.start()
    clock.go_on(600)
    await service.sandboxes.reconcile(())
    usage = Usage(service.ledger, clock)
    assert (await usage.report("ann", None, None, By.SANDBOX)).lines == [(one.id, 2)]


class Answered:
    """A keeper that has just answered; or ``ago`` seconds ago."""

    def __init__(self, ago: float = 0) -> None:
        self._ago = ago

    @property
    def answered_at(self) -> float:
        return time.monotonic() - self._ago

    @answered_at.setter
    def answered_at(self, at: float) -> None:
        raise NotImplementedError


async def test_a_keeper_that_is_silent_is_not_known_alive(service: Service, clock: Time) -> None:
    await service.sandboxes.create("ann", SPEC)
    pulse = Pulse(service.ledger, service.registry, Answered(30), clock)
    clock.go_on(40)
    await pulse.beat()
    last = await service.ledger.last_pulse()
    assert last is not None
    assert clock.ticks - last.ticks == pytest.approx(30 * SECOND, abs=SECOND)


async def test_a_clock_that_is_set_is_noticed_also_while_api_is_away(service: Service, clock: Time) -> None:
    await service.sandboxes.create("ann", SPEC)
    pulse = Pulse(service.ledger, service.registry, Answered(), clock)
    await pulse.begin()
    await pulse.beat()
    clock.go_on(10)
    clock.wall -= 20 * DAY
    await pulse.beat()
    clock.go_on(10)
    clock.wall -= DAY
    again = Pulse(service.ledger, service.registry, Answered(), clock)
    await again.begin()
    await again.beat()
    clock.go_on(10)
    usage = Usage(service.ledger, clock)
    report = await usage.report("ann", 0, 30_000, By.DAY)
    day = BEGIN // DAY
    assert report.lines == [(str(day + 8), 10), (str(day + 9), 10), (str(day + 29), 10)]
    assert report.total == 30


async def test_nothing_is_written_while_nothing_runs(service: Service, clock: Time) -> None:
    pulse = Pulse(service.ledger, service.registry, Answered(), clock)
    await pulse.beat()
    one = await service.sandboxes.create("ann", SPEC)
    await service.sandboxes.pauses.pause("ann", one.id)
    await pulse.beat()
    assert await service.ledger.last_pulse() is None


# ---- reports


async def test_a_report_is_of_this_month_unless_it_is_said(service: Service, clock: Time) -> None:
    usage = Usage(service.ledger, clock)
    report = await usage.report("ann", None, None, By.DAY)
    assert report == (month_of(BEGIN / SECOND), By.DAY, [])
    day = BEGIN // DAY
    assert (await usage.report("ann", day - 3, day - 1, By.DAY)).period == Period(day - 3, day - 1)
    for begin, end in ((day, day), (None, day - 1), (day + 1, day)):
        problem = await problem_of(usage.report("ann", begin, end, By.DAY))
        assert (problem.code, problem.field) == (Code.INVALID_FIELD, "to")


def test_the_spec_of_these_tests_is_within_the_smallest_plan() -> None:
    assert isinstance(SPEC, SandboxSpec)
    assert SPEC.timeout_ms <= 120_000
