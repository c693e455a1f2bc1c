"""Operations on sandboxes and what they reach."""

from __future__ import annotations

from nsbox.api import answers, parameters, schema
from nsbox.api.operations import examples
from nsbox.api.operations.declare import BASE, ON_SANDBOX, Operation, body_of, json_of
from nsbox.model.errors import Code

_ALL = f"{BASE}/sandboxes"
_ONE = f"{_ALL}/{{sandboxId}}"
_MAKE = (
    Code.IDEMPOTENCY_MISMATCH,
    Code.TEMPLATE_NOT_AVAILABLE,
    Code.IMAGE_NOT_AVAILABLE,
    Code.IMAGE_NOT_ALLOWED,
    Code.IMAGE_REFUSED,
    Code.NO_SHELL,
    Code.SNAPSHOT_NOT_FOUND,
    Code.SANDBOX_NOT_FOUND,
    Code.REGISTRY_FAILED,
    Code.PULL_TIMED_OUT,
    Code.TOO_MANY_SANDBOXES,
    Code.TOO_MANY_PULLS,
    Code.TOO_MANY_COMMANDS,
    Code.SANDBOX_EXHAUSTED,
    Code.HOST_FULL,
    Code.CREATE_FAILED,
    Code.NETWORK_FAILED,
    *ON_SANDBOX,
)

OPERATIONS = (
    Operation(
        name="create_sandbox",
        method="POST",
        path=_ALL,
        tag="Sandboxes",
        summary="Create a sandbox",
        text="All members are optional. An image that is not here is pulled first. With `Idempotency-Key` "
        "the request can be sent again, and gets the same sandbox.",
        headers=("Idempotency-Key",),
        body=body_of(schema.CreateSandbox, {"vcpus": 2, "memoryMb": 1024, "timeoutMs": 600000}),
        answers=json_of(
            answers.SandboxView, "It runs.", examples.SANDBOX, 201, Location="Where it is looked at."
        ),
        errors=_MAKE,
    ),
    Operation(
        name="list_sandboxes",
        method="GET",
        path=_ALL,
        tag="Sandboxes",
        summary="Your sandboxes, oldest first",
        query=(parameters.STATUS,),
        answers=json_of(list[answers.SandboxView], "Your sandboxes.", [examples.SANDBOX]),
    ),
    Operation(
        name="get_sandbox",
        method="GET",
        path=_ONE,
        tag="Sandboxes",
        summary="One sandbox",
        text="One that has ended is kept for seven days, unless the operator says otherwise.",
        answers=json_of(answers.SandboxView, "The sandbox.", examples.SANDBOX),
    ),
    Operation(
        name="kill_sandbox",
        method="DELETE",
        path=_ONE,
        tag="Sandboxes",
        summary="End a sandbox",
        text="The answer comes when none of its processes is left. Asking again answers the same.",
        answers=json_of(
            answers.KilledView, "It has ended.", {"id": examples.SANDBOX_ID, "status": "stopped"}
        ),
        errors=ON_SANDBOX,
    ),
    Operation(
        name="pause_sandbox",
        method="POST",
        path=f"{_ONE}/pause",
        tag="Sandboxes",
        summary="Pause a sandbox",
        text="Every process stops where it stands, and so does its time. Needs a delegated cgroup.",
        body=body_of(schema.Nothing, {}),
        answers=json_of(
            answers.PausedView,
            "It stands still.",
            {"id": examples.SANDBOX_ID, "status": "paused", "reclaimedBytes": None},
        ),
        errors=ON_SANDBOX,
    ),
    Operation(
        name="resume_sandbox",
        method="POST",
        path=f"{_ONE}/resume",
        tag="Sandboxes",
        summary="Resume a paused sandbox",
        body=body_of(schema.Nothing, {}),
        answers=json_of(answers.TimeView, "It goes on, with the time that was left.", examples.TIME),
        errors=ON_SANDBOX,
    ),
    Operation(
        name="set_timeout",
        method="POST",
        path=f"{_ONE}/timeout",
        tag="Sandboxes",
        summary="Give it more or less time",
        text="It ends so long from now; of a paused one, so long after the resume.",
        body=body_of(schema.SetTimeout, {"timeoutMs": 600000}),
        answers=json_of(answers.TimeView, "Its time.", examples.TIME),
        errors=ON_SANDBOX,
    ),
    Operation(
        name="set_lifecycle",
        method="PUT",
        path=f"{_ONE}/lifecycle",
        tag="Sandboxes",
        summary="What it does by itself",
        text="As a whole: what is not given is as by default.",
        body=body_of(schema.SetLifecycle, {"autoPause": {"idleMs": 60000}, "autoResume": True}),
        answers=json_of(
            answers.LifecycleView,
            "What it does from now on.",
            {
                "id": examples.SANDBOX_ID,
                "status": "running",
                "autoPause": {"idleMs": 60000, "ignoreProcesses": False},
                "onExpiry": "kill",
                "autoResume": True,
            },
        ),
        errors=ON_SANDBOX,
    ),
    Operation(
        name="sandbox_metrics",
        method="GET",
        path=f"{_ONE}/metrics",
        tag="Sandboxes",
        summary="What it uses",
        text="Now, and about every 30 s of the last hour. What this host cannot tell is null.",
        query=(parameters.HISTORY,),
        answers=json_of(answers.MetricsView, "What it uses.", examples.METRICS),
        errors=ON_SANDBOX,
    ),
    Operation(
        name="get_network",
        method="GET",
        path=f"{_ONE}/network",
        tag="Network",
        summary="What it may reach",
        answers=json_of(answers.NetworkView, "The policy.", examples.NETWORK),
    ),
    Operation(
        name="set_network",
        method="PUT",
        path=f"{_ONE}/network",
        tag="Network",
        summary="Replace the policy",
        text="It holds when the answer comes, for connections that are there too.",
        body=body_of(schema.SetNetwork, {"allow": ["pypi.org", "files.pythonhosted.org"], "ports": [443]}),
        answers=json_of(answers.NetworkView, "The policy as it holds.", examples.NETWORK),
        errors=(*ON_SANDBOX, Code.NETWORK_FAILED, Code.HOST_FULL),
    ),
    Operation(
        name="network_log",
        method="GET",
        path=f"{_ONE}/network/log",
        tag="Network",
        summary="What was refused",
        answers=json_of(answers.RefusalsView, "Oldest first.", examples.REFUSALS),
        errors=ON_SANDBOX,
    ),
    Operation(
        name="expose_port",
        method="POST",
        path=f"{_ONE}/ports",
        tag="Ports",
        summary="Make a port reachable",
        body=body_of(schema.ExposePort, {"port": 8080}),
        answers=(
            *json_of(answers.PortView, "Now exposed.", examples.PORT, 201),
            *json_of(answers.PortView, "It was exposed already, and is as this request says.", examples.PORT),
        ),
        errors=(*ON_SANDBOX, Code.TOO_MANY_PORTS, Code.NO_HOST_PORT),
    ),
    Operation(
        name="list_ports",
        method="GET",
        path=f"{_ONE}/ports",
        tag="Ports",
        summary="The exposed ports",
        answers=json_of(list[answers.PortView], "By number.", [examples.PORT]),
        errors=ON_SANDBOX,
    ),
    Operation(
        name="remove_port",
        method="DELETE",
        path=f"{_ONE}/ports/{{port}}",
        tag="Ports",
        summary="Take a port away",
        answers=json_of(
            answers.RemovedPortView, "Its connections are closed.", {"port": 8080, "deleted": True}
        ),
        errors=(*ON_SANDBOX, Code.INVALID_FIELD, Code.PORT_NOT_EXPOSED),
    ),
    Operation(
        name="link_port",
        method="POST",
        path=f"{_ONE}/ports/{{port}}/links",
        tag="Ports",
        summary="A link for a port that is not public",
        body=body_of(schema.MakeLink, {"expiresInS": 3600}),
        answers=json_of(answers.LinkView, "The link.", examples.LINK, 201),
        errors=(*ON_SANDBOX, Code.PORT_NOT_EXPOSED),
    ),
)
#: What making sandboxes can be answered; forks too.
MAKE = _MAKE
