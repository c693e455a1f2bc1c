"""THE transition table of a sandbox: which action is allowed in which state, and what it leads to.

Nothing else changes a state. ``docs/lifecycle.md`` is generated from this table
(``python -m nsbox.model.lifecycle``), and a test holds the two together.
"""

from __future__ import annotations

from enum import StrEnum

from nsbox.model.errors import Code, Problem


class State(StrEnum):
    """Where a sandbox is in its life, as clients see it in ``status``."""

    CREATING = "creating"  # the intent is recorded, resources are being made
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"  # a tombstone: retried until nothing of it is left
    STOPPED = "stopped"
    FAILED = "failed"  # could not be created; nothing of it is left
    LOST = "lost"  # its keeper died or the host rebooted; nothing of it is left

    @property
    def alive(self) -> bool:
        """Has, or may still have, processes on the host."""
        return self in _ALIVE

    @property
    def final(self) -> bool:
        """Only a record is left."""
        return not self.alive


class Action(StrEnum):
    """What can be done to a sandbox, or happen to it."""

    READY = "ready"  # init answered: commands can run
    FAIL = "fail"  # a step of create failed and was rolled back
    PAUSE = "pause"
    RESUME = "resume"
    IDLE = "idle"  # unused for so long that, by its autoPause, it is paused
    EXPIRE = "expire"  # its time is over, and by its onExpiry it is paused for that, not killed
    EXHAUST = "exhaust"  # its owner's compute seconds of the month are used up, and it is paused for that
    WAKE = "wake"  # a request came that needs it running, and by its autoResume it is resumed
    EXEC = "exec"
    FILES = "files"
    TIMEOUT = "timeout"  # its time is made longer or shorter
    PORTS = "ports"  # exposed, listed, taken away; what is exposed is reached only while it runs
    NETWORK = "network"
    SNAPSHOT = "snapshot"  # what it has written is kept, by a snapshot or a fork
    DIFF = "diff"  # what it has written is looked at
    METRICS = "metrics"
    KILL = "kill"  # asked for by a client, or the time is over
    GONE = "gone"  # processes, mounts, cgroup and directories are seen to be gone
    LOSE = "lose"  # found missing without having been killed


class EndReason(StrEnum):
    """Why a sandbox is no longer running."""

    KILLED = "killed"
    EXPIRED = "expired"
    FAILED = "failed"
    CRASHED = "crashed"  # its init died by itself
    LOST = "lost"
    SHUTDOWN = "shutdown"


_ALIVE = frozenset({State.CREATING, State.RUNNING, State.PAUSED, State.STOPPING})

TRANSITIONS: dict[tuple[State, Action], State] = {
    (State.CREATING, Action.READY): State.RUNNING,
    (State.CREATING, Action.FAIL): State.FAILED,
    (State.CREATING, Action.KILL): State.STOPPING,
    (State.CREATING, Action.LOSE): State.LOST,
    (State.RUNNING, Action.EXEC): State.RUNNING,
    (State.RUNNING, Action.FILES): State.RUNNING,
    (State.RUNNING, Action.PORTS): State.RUNNING,
    (State.RUNNING, Action.TIMEOUT): State.RUNNING,
    (State.RUNNING, Action.NETWORK): State.RUNNING,
    (State.RUNNING, Action.SNAPSHOT): State.RUNNING,
    (State.RUNNING, Action.DIFF): State.RUNNING,
    (State.RUNNING, Action.METRICS): State.RUNNING,
    (State.RUNNING, Action.PAUSE): State.PAUSED,
    (State.RUNNING, Action.RESUME): State.RUNNING,
    (State.RUNNING, Action.IDLE): State.PAUSED,
    (State.RUNNING, Action.EXPIRE): State.PAUSED,
    (State.RUNNING, Action.EXHAUST): State.PAUSED,
    (State.RUNNING, Action.WAKE): State.RUNNING,
    (State.RUNNING, Action.KILL): State.STOPPING,
    (State.RUNNING, Action.LOSE): State.LOST,
    (State.PAUSED, Action.PORTS): State.PAUSED,
    (State.PAUSED, Action.TIMEOUT): State.PAUSED,
    (State.PAUSED, Action.NETWORK): State.PAUSED,
    (State.PAUSED, Action.SNAPSHOT): State.PAUSED,
    (State.PAUSED, Action.DIFF): State.PAUSED,
    (State.PAUSED, Action.METRICS): State.PAUSED,
    (State.PAUSED, Action.PAUSE): State.PAUSED,
    (State.PAUSED, Action.RESUME): State.RUNNING,
    (State.PAUSED, Action.WAKE): State.RUNNING,
    (State.PAUSED, Action.KILL): State.STOPPING,
    (State.PAUSED, Action.LOSE): State.LOST,
    (State.STOPPING, Action.KILL): State.STOPPING,
    (State.STOPPING, Action.GONE): State.STOPPED,
    (State.STOPPING, Action.LOSE): State.STOPPED,
    (State.STOPPED, Action.KILL): State.STOPPED,
    (State.FAILED, Action.KILL): State.FAILED,
    (State.LOST, Action.KILL): State.LOST,
}

_ADVICE: dict[State, str] = {
    State.CREATING: "wait until it is running",
    State.PAUSED: "resume it first",
    State.STOPPING: "create a new sandbox",
    State.STOPPED: "create a new sandbox",
    State.FAILED: "create a new sandbox",
    State.LOST: "create a new sandbox",
}


def after(state: State, action: Action) -> State:
    """The state that ``action`` leads to from ``state``.

    Raises ``Problem(WRONG_STATE)`` when the table has no such row.
    """
    try:
        return TRANSITIONS[state, action]
    except KeyError:
        raise Problem(
            Code.WRONG_STATE,
            f"{action.value} is not possible while the sandbox is {state.value}",
            remedy=_ADVICE.get(state),
            status_of_sandbox=state.value,
        ) from None


def diagram() -> str:
    """The table as a Mermaid state diagram. Actions that change nothing are left out."""
    lines = ["stateDiagram-v2", "    [*] --> creating: create"]
    lines += [
        f"    {state} --> {target}: {action}"
        for (state, action), target in TRANSITIONS.items()
        if state is not target
    ]
    lines += [f"    {state} --> [*]" for state in State if state.final]
    return "\n".join(lines) + "\n"


def table() -> str:
    """The table as Markdown: a row a state, a column an action; a dot is a refusal (409)."""
    head = "| state | " + " | ".join(action.value for action in Action) + " |"
    rule = "|---" * (len(Action) + 1) + "|"
    rows = [
        f"| **{state.value}** | "
        + " | ".join(
            TRANSITIONS[state, action].value if (state, action) in TRANSITIONS else "·" for action in Action
        )
        + " |"
        for state in State
    ]
    return "\n".join([head, rule, *rows]) + "\n"


def page() -> str:
    """The generated page ``docs/lifecycle.md``."""
    return (
        "# The life of a sandbox\n\n"
        "Generated from `nsbox/model/lifecycle.py` by `python -m nsbox.model.lifecycle`; do not edit.\n\n"
        f"```mermaid\n{diagram()}```\n\n{table()}\n"
        "A dot is a refusal: HTTP 409 with the code `wrong_state`.\n\n"
        "`idle`, `expire` and `wake` happen by themselves, to sandboxes that were made so (`autoPause`,\n"
        "`onExpiry`, `autoResume`: [api.md](api.md#by-itself)); `exhaust` to those of an owner whose\n"
        "compute seconds are used up ([api.md](api.md#plans-and-usage)). With `autoResume`, what is\n"
        "refused to a paused sandbox here (`exec`, `files`, and a visit to one of its ports) wakes it\n"
        "first, and waits for that.\n"
    )


if __name__ == "__main__":
    print(page(), end="")
