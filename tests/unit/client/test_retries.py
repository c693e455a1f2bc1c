"""What is tried again, when, and for how long: with a clock that is moved by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nsbox.client import ApiError, Client, ConnectionLost, NsboxError, Retries, TooMany, Unreachable
from nsbox.client.call import Call
from nsbox.client.errors import ConnectionFailed
from nsbox.client.retries import Answer, Attempts, Pause, request_of, steps
from tests.unit.client.fakes import KEY, RESULT, SANDBOX, document, problem
from tests.unit.client.server import cutting

PATIENT = Retries(patience=30.0, first=0.1, longest=5.0)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def attempts(clock: Clock, retries: Retries = PATIENT) -> Attempts:
    return Attempts(retries, clock, lambda: 1.0)


def played(call: Call[bytes], outcomes: list[Answer | ConnectionFailed]) -> tuple[list[float], bytes]:
    """The pauses, and what came out."""
    clock, pauses = Clock(), []
    plan = steps(call, PATIENT, attempts(clock))
    step = next(plan)
    try:
        while True:
            if isinstance(step, Pause):
                pauses.append(step.seconds)
                clock.now += step.seconds
                step = plan.send(None)
            else:
                step = plan.send(outcomes.pop(0))
    except StopIteration as end:
        return pauses, end.value


def refusal(status: int, code: str | None = None, after: str | None = None) -> Answer:
    body = b"" if code is None else b'{"code":"%s","detail":"no"}' % code.encode()
    return Answer(status, {} if after is None else {"retry-after": after}, body)


SAFE = Call("GET", "/x", bytes, safe=True)
KEYED = Call("POST", "/x", bytes, keyed=True)
UNSAFE = Call("POST", "/x", bytes)
DONE = Answer(200, {}, b"done")


def test_pauses_grow_and_patience_ends() -> None:
    clock = Clock()
    tried, error = attempts(clock), ConnectionLost("gone")
    pauses = []
    with pytest.raises(ConnectionLost):
        while True:
            pauses.append(tried.lost(error, safe=True))
            clock.now += pauses[-1]
    assert pauses[:7] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert 25 < sum(pauses) <= 30


def test_progress_makes_patience_new() -> None:
    clock = Clock()
    tried, error = attempts(clock), ConnectionLost("gone")
    for _ in range(100):
        clock.now += tried.lost(error, safe=True) + 10
        tried.progressed()


def test_no_patience_is_no_second_try() -> None:
    tried = attempts(Clock(), Retries(patience=0))
    with pytest.raises(ConnectionLost):
        tried.lost(ConnectionLost("gone"), safe=True)


@pytest.mark.parametrize("call", [SAFE, KEYED])
@pytest.mark.parametrize(
    "outcome",
    [
        ConnectionLost("gone"),
        Unreachable("away"),
        refusal(503, "shutting_down"),
        refusal(502),
        refusal(503),
        refusal(504),
        refusal(503, "host_full", "1"),
        refusal(429, "too_many_commands", "1"),
    ],
)
def test_what_is_safe_is_tried_again(call: Call[bytes], outcome: Answer | ConnectionFailed) -> None:
    pauses, value = played(call, [outcome, DONE])
    assert value == b"done"
    assert len(pauses) == 1


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        (SAFE, refusal(404, "sandbox_not_found")),
        (SAFE, refusal(500, "internal")),
        (SAFE, refusal(503, "host_lacks")),
        (SAFE, refusal(429, "too_many_snapshots")),
        (SAFE, refusal(504, "sandbox_unresponsive")),
        (UNSAFE, ConnectionLost("gone")),
        (UNSAFE, refusal(503)),
        (UNSAFE, refusal(503, "shutting_down", "1")),
        (UNSAFE, refusal(502)),
    ],
)
def test_what_is_told_at_once(call: Call[bytes], outcome: Answer | ConnectionFailed) -> None:
    with pytest.raises(NsboxError):
        played(call, [outcome, DONE])


@pytest.mark.parametrize("outcome", [Unreachable("away"), refusal(429, "rate_limited", "2")])
def test_what_nobody_has_looked_at_is_tried_again_even_if_unsafe(
    outcome: Answer | ConnectionFailed,
) -> None:
    assert played(UNSAFE, [outcome, DONE])[1] == b"done"


def test_retry_after_is_heeded_and_bounded() -> None:
    pauses, _ = played(SAFE, [refusal(429, "rate_limited", "7"), DONE])
    assert pauses == [7.0]
    with pytest.raises(TooMany) as told:
        played(SAFE, [refusal(429, "rate_limited", "3600"), DONE])
    assert told.value.retry_after == 3600
    for strange in ("Wed, 21 Oct 2026 07:28:00 GMT", "-1", "99999999", "x", ""):
        with pytest.raises(TooMany):
            played(SAFE, [refusal(429, "rate_limited", strange), DONE])


def test_one_call_has_one_key_and_another_has_another() -> None:
    first, second = (dict(request_of(KEYED).headers)["Idempotency-Key"] for _ in range(2))
    assert first != second
    assert dict(request_of(KEYED._replace(key="mine")).headers)["Idempotency-Key"] == "mine"
    assert "Idempotency-Key" not in dict(request_of(UNSAFE).headers)


def test_an_address_where_nothing_ever_was_is_given_up_soon() -> None:
    slept: list[float] = []
    with Client("http://127.0.0.1:1", KEY, retries=Retries(patience=600, reach=0)) as nsbox:
        nsbox._driver.sleep = slept.append
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 cannot be reached"):
            nsbox.list()
        assert slept == []


def test_a_server_that_goes_away_and_comes_back() -> None:
    """Refused connections count as being away, once it was there."""
    with cutting(lambda _: document([SANDBOX])) as server:
        nsbox = Client(server.url, KEY, retries=Retries(first=0.0, longest=0.0, reach=0))
        assert len(nsbox.list()) == 1
    with pytest.raises(Unreachable), nsbox:
        nsbox._driver._retries = Retries(patience=0)
        nsbox.list()


def test_too_many_requests_over_the_wire() -> None:
    told = [problem(429, "rate_limited", retry_after="3"), problem(503, "shutting_down", retry_after="1")]

    def reply(_: object) -> bytes:
        return told.pop(0) if told else document(RESULT)

    slept: list[float] = []
    with cutting(reply) as server, Client(server.url, KEY) as nsbox:
        nsbox._driver.sleep = slept.append
        assert nsbox.sandbox("sb_1").exec("x").ok
        assert slept == [3.0, 1.0]
        assert len({one.headers["idempotency-key"] for one in server.seen}) == 1


def test_a_stream_that_is_refused_at_first() -> None:
    from tests.unit.client.fakes import log

    whole: Callable[..., bytes] = log([("stdout", b"x")])
    told = [
        problem(503, "shutting_down", retry_after="1"),
        problem(429, "too_many_commands", retry_after="2"),
    ]
    slept: list[float] = []
    with (
        cutting(lambda seen: told.pop(0) if told else whole(seen)) as server,
        Client(server.url, KEY) as nsbox,
    ):
        nsbox._driver.sleep = slept.append
        assert nsbox.sandbox("sb_1").stream("x").result().exit_code == 7
    assert slept == [1.0, 2.0]
    with (
        cutting(lambda _: problem(404, "sandbox_not_found")) as server,
        Client(server.url, KEY) as nsbox,
        pytest.raises(ApiError, match="sandbox_not_found"),
    ):
        list(nsbox.sandbox("sb_1").stream("x"))
