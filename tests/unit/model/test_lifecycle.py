from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import nsbox
from nsbox.model import lifecycle
from nsbox.model.errors import Code, Problem
from nsbox.model.lifecycle import Action, State, after

#: Written down a second time on purpose. A row a state, a column an action; ``.`` refuses, ``=`` stays.
EXPECTED = """
           ready    fail    pause   resume   idle    expire  exhaust  wake     exec  files  timeout  ports  network  metrics  snapshot  diff  kill      gone     lose
creating   running  failed  .       .        .       .       .        .        .     .      .        .      .        .        .         .     stopping  .        lost
running    .        .       paused  =        paused  paused  paused   =        =     =      =        =      =        =        =         =     stopping  .        lost
paused     .        .       =       running  .       .       .        running  .     .      =        =      =        =        =         =     stopping  .        lost
stopping   .        .       .       .        .       .       .        .        .     .      .        .      .        .        .         .     =         stopped  stopped
stopped    .        .       .       .        .       .       .        .        .     .      .        .      .        .        .         .     =         .        .
failed     .        .       .       .        .       .       .        .        .     .      .        .      .        .        .         .     =         .        .
lost       .        .       .       .        .       .       .        .        .     .      .        .      .        .        .         .     =         .        .
"""  # noqa: E501


def expected() -> dict[tuple[State, Action], State | None]:
    head, *rows = (line.split() for line in EXPECTED.strip().splitlines())
    table: dict[tuple[State, Action], State | None] = {}
    for name, *cells in rows:
        for action, cell in zip(head, cells, strict=True):
            target = None if cell == "." else State(name if cell == "=" else cell)
            table[State(name), Action(action)] = target
    return table


PAIRS = expected()


def test_the_expectation_is_complete() -> None:
    assert set(PAIRS) == {(state, action) for state in State for action in Action}


@pytest.mark.parametrize(("state", "action"), PAIRS, ids=lambda value: value.value)
def test_every_pair(state: State, action: Action) -> None:
    target = PAIRS[state, action]
    if target is not None:
        assert after(state, action) is target
        return
    with pytest.raises(Problem) as caught:
        after(state, action)
    problem = caught.value
    assert problem.code is Code.WRONG_STATE
    assert action.value in problem.detail
    assert state.value in problem.detail
    assert problem.facts == {"status_of_sandbox": state.value}
    # Only of a running sandbox is there nothing to advise: it is refused what cannot be asked for.
    assert problem.remedy or state is State.RUNNING


def test_what_a_client_asks_for_and_is_refused_has_a_remedy() -> None:
    for (state, action), target in PAIRS.items():
        if target is None and action in (
            Action.PAUSE,
            Action.RESUME,
            Action.EXEC,
            Action.FILES,
            Action.NETWORK,
        ):
            with pytest.raises(Problem) as caught:
                after(state, action)
            assert caught.value.remedy


def test_alive_and_final_are_opposites() -> None:
    assert {state for state in State if state.alive} == {
        State.CREATING, State.RUNNING, State.PAUSED, State.STOPPING,
    }  # fmt: skip
    assert all(state.alive is not state.final for state in State)


def test_kill_is_always_possible() -> None:
    """DELETE is idempotent."""
    assert all(PAIRS[state, Action.KILL] is not None for state in State)


def test_every_state_can_be_reached_and_left_to_a_final_one() -> None:
    def reachable(start: State) -> set[State]:
        found, fresh = {start}, {start}
        while fresh:
            fresh = {target for (state, _), target in PAIRS.items() if state in fresh and target} - found
            found |= fresh
        return found

    assert reachable(State.CREATING) == set(State)
    assert all(any(one.final for one in reachable(state)) for state in State)


class AnyLife(RuleBasedStateMachine):
    """Any actions in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State.CREATING
        self.ended: State | None = None

    @rule(action=st.sampled_from(Action))
    def act(self, action: Action) -> None:
        try:
            self.state = after(self.state, action)
        except Problem:
            assert (self.state, action) not in lifecycle.TRANSITIONS
        if self.state.final and self.ended is None:
            self.ended = self.state

    @invariant()
    def who_is_dead_stays_dead(self) -> None:
        assert self.ended in (None, self.state)


AnyLife.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAnyLife = AnyLife.TestCase


def test_the_page_is_the_table() -> None:
    page = Path(nsbox.__file__).parents[1] / "docs/lifecycle.md"
    assert page.read_text(encoding="utf-8") == lifecycle.page()


def test_the_diagram_has_every_change_and_no_other() -> None:
    lines = {line.strip() for line in lifecycle.diagram().splitlines()}
    for (state, action), target in PAIRS.items():
        if target is not None and target is not state:
            assert f"{state.value} --> {target.value}: {action.value}" in lines
            lines.remove(f"{state.value} --> {target.value}: {action.value}")
    assert lines == {
        "stateDiagram-v2",
        "[*] --> creating: create",
        *(f"{one.value} --> [*]" for one in State if one.final),
    }
