"""A real daemon against a model of a few lines: any requests in any order, api killed in between."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.acceptance.plugin import Say
from tests.e2e.client import Answer, Api, Sandbox
from tests.e2e.daemon import Daemon

NAMES = st.sampled_from(["/tmp/a", "/root/b"])


class Model:
    """What one sandbox should be."""

    def __init__(self, auto_resume: bool) -> None:
        self.status, self.auto_resume = "running", auto_resume
        self.files: dict[str, str] = {}
        self.processes: set[str] = set()

    @property
    def serves(self) -> bool:
        """Whether what needs it running is served; it runs then."""
        if self.status == "paused" and self.auto_resume:
            self.status = "running"
        return self.status == "running"


class Lives(RuleBasedStateMachine):
    """Every answer is the one that the model gives."""

    daemon: Daemon
    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.api: Api = self.daemon.api()
        self.models: dict[str, Model] = {}
        self.killed = 0

    @initialize(auto_resume=st.booleans())
    def begin(self, auto_resume: bool) -> None:
        self.create(auto_resume)

    def _any(self, data: st.DataObject) -> tuple[Sandbox, Model]:
        sandbox_id = data.draw(st.sampled_from(sorted(self.models)))
        return Sandbox(self.api, sandbox_id), self.models[sandbox_id]

    @staticmethod
    def _refused(answer: Answer) -> None:
        assert (answer.status, answer.code) == (409, "wrong_state"), answer

    def create(self, auto_resume: bool) -> None:
        answer = self.api.request("POST", "/sandboxes", {"autoResume": auto_resume})
        assert answer.status == 201, answer
        self.models[answer.json["id"]] = Model(auto_resume)

    @precondition(lambda self: len(self.models) < 3)
    @rule(auto_resume=st.booleans())
    def another(self, auto_resume: bool) -> None:
        self.create(auto_resume)

    @rule(data=st.data(), verb=st.sampled_from(["pause", "resume"]))
    def stand_or_go(self, data: st.DataObject, verb: str) -> None:
        sandbox, model = self._any(data)
        answer = sandbox.request("POST", f"/{verb}")
        if answer.status == 503 and answer.code == "host_lacks":
            pytest.skip("no cgroup is delegated here, and pausing needs one")
        if model.status == "stopped":
            self._refused(answer)
            return
        model.status = "paused" if verb == "pause" else "running"
        assert (answer.status, answer.json["status"]) == (200, model.status)

    @rule(data=st.data())
    def exec(self, data: st.DataObject) -> None:
        sandbox, model = self._any(data)
        answer = sandbox.exec("echo $((6 * 7))")
        if model.serves:
            assert (answer.status, answer.json["stdout"]) == (200, "42\n"), answer
        else:
            self._refused(answer)

    @rule(data=st.data(), name=NAMES, content=st.text(max_size=20))
    def write(self, data: st.DataObject, name: str, content: str) -> None:
        sandbox, model = self._any(data)
        answer = sandbox.write(name, content)
        if model.serves:
            assert answer.status == 200, answer
            model.files[name] = content
        else:
            self._refused(answer)

    @rule(data=st.data(), name=NAMES)
    def read(self, data: st.DataObject, name: str) -> None:
        sandbox, model = self._any(data)
        answer = sandbox.read(name)
        if not model.serves:
            self._refused(answer)
        elif name in model.files:
            assert answer.json["content"] == model.files[name]
        else:
            assert (answer.status, answer.code) == (404, "file_not_found")

    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        sandbox, model = self._any(data)
        answer = sandbox.request("POST", "/processes", {"command": "sleep 600"})
        if model.serves:
            assert answer.status == 201, answer
            model.processes.add(answer.json["id"])
        else:
            self._refused(answer)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        sandbox, model = self._any(data)
        if not model.processes or model.status == "stopped":
            return
        key = data.draw(st.sampled_from(sorted(model.processes)))
        answer = sandbox.request("DELETE", f"/processes/{key}")
        if model.serves:
            assert (answer.status, answer.json["signal"]) == (200, "KILL"), answer
            model.processes.discard(key)
        else:
            self._refused(answer)

    @rule(data=st.data(), auto_resume=st.booleans())
    def lifecycle(self, data: st.DataObject, auto_resume: bool) -> None:
        sandbox, model = self._any(data)
        answer = sandbox.request("PUT", "/lifecycle", {"autoResume": auto_resume})
        if model.status == "stopped":
            self._refused(answer)
            return
        assert (answer.status, answer.json["autoResume"]) == (200, auto_resume)
        model.auto_resume = auto_resume

    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        sandbox, model = self._any(data)
        answer = self.api.kill(sandbox.id)
        assert (answer.status, answer.json["status"]) == (200, "stopped")
        model.status = "stopped"

    @precondition(lambda self: self.killed < 1)
    @rule()
    def kill_api(self) -> None:
        self.killed += 1
        self.daemon.kill(self.daemon.api_pid, signal.SIGKILL)
        self.daemon.wait_ready(60)
        self.api.close()

    @invariant()
    def they_agree(self) -> None:
        type(self).steps += 1
        found: dict[str, Any] = {one["id"]: one for one in self.api.request("GET", "/sandboxes").json}
        alive = {name: model for name, model in self.models.items() if model.status != "stopped"}
        assert {name: one["status"] for name, one in found.items()} == {
            name: model.status for name, model in alive.items()
        }
        for name, model in alive.items():
            answer = self.api.request("GET", f"/sandboxes/{name}/processes")
            assert {one["id"] for one in answer.json} == model.processes

    def teardown(self) -> None:
        for name in self.models:
            assert self.api.kill(name).status == 200
        self.api.close()


def test_a_daemon_and_its_model(own_daemon: Daemon, figure: Say) -> None:
    machine = type("OwnLives", (Lives,), {"daemon": own_daemon})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=6,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    figure(13, tried=machine.steps)  # type: ignore[attr-defined]
