"""Schemathesis asks a real daemon all that its OpenAPI document allows, and what it does not (row 12 of the
acceptance list): no answer may be a fault of nsbox's, none may be other than the document says.

What it makes is bounded by settings: sandboxes of a few seconds, a dozen of them, and no way out of the host.
Ids in the document it is given are those of a sandbox, a process and a snapshot that are there, beside one
that is not.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests import conformance
from tests.acceptance.plugin import Say
from tests.e2e.daemon import SLOWNESS, Daemon

pytest.importorskip("schemathesis")

#: Examples of each operation. NSBOX_SCHEMATHESIS=50 asks longer, and with another seed each time.
_EXAMPLES = os.environ.get("NSBOX_SCHEMATHESIS") or "5"
_SEED = () if "NSBOX_SCHEMATHESIS" in os.environ else ("--seed", "1")
_SECONDS = 600 if "NSBOX_SCHEMATHESIS" in os.environ else 150
_CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection,unsupported_method,allow_header_conformance,ignored_auth"
)
_LIFE_MS = 120_000
_SETTINGS = {
    "timeout_ms": f"1000,{_LIFE_MS},5000",
    "exec_timeout_ms": "1,1000,500",
    "max_sandboxes": "12",
    "max_snapshots": "6",
    "max_json_bytes": "1048576",
    "pids": "64",
    "images_allowed": "images.invalid/none",
    "network_mode": "off",
    "rate_limit": "0",
}
#: What this host lacks, what is full by then, and what the host has not delegated is told with 503.
_CONFIG = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503]
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 431, 503]
"""
#: What other questions are about is not to be ended by one of them.
_LASTING = ("sandboxId", "processId", "snapshotId")
#: A WebSocket; and what would take its own key away, which it finds in a list (test_accounts.py has those).
_LEFT_OUT = [
    part
    for name in ("attach_process", "revoke_key", "change_user", "remove_user")
    for part in ("--exclude-operation-id", name)
]
JSON = dict[str, Any]


@pytest.fixture(scope="module")
def small_daemon() -> Iterator[Daemon]:
    """A daemon where little can be made, and nothing for long."""
    prefixed = {f"NSBOX_{name.upper()}": value for name, value in _SETTINGS.items()}
    one = Daemon(key="test-schemathesis-0123456789", settings=prefixed)
    try:
        yield one.start()
    finally:
        one.close()


def fitted(document: JSON, ids: dict[str, str], spare: str) -> JSON:
    """The document with ids that exist, without what waits for minutes, and with closed answers."""
    for item in document["paths"].values():
        for method, one in item.items():
            # An unknown user is told before anything else, also before a method that is not there.
            one["parameters"] = [each for each in one.get("parameters", ()) if each["name"] != "Nsbox-User"]
            for parameter in one["parameters"]:
                if parameter["in"] == "path" and parameter["name"] in ids:
                    here = ids[parameter["name"]]
                    ends = method == "delete" or one["operationId"] == "set_timeout"
                    there = spare if ends and parameter["name"] in _LASTING else here
                    parameter["schema"] = {"type": "string", "enum": [there, f"{there[:-1]}0"]}
    schemas = document["components"]["schemas"]
    conformance.close(schemas)
    del schemas["ExposePort"]["properties"]["waitMs"]
    del schemas["StartProcess"]["properties"]["readyWhen"]
    return document


@contextmanager
def _kept_alive(daemon: Daemon, sandbox: str) -> Iterator[None]:
    """An emulated machine takes longer to ask it all than a sandbox may live here."""
    over = threading.Event()

    def keep() -> None:
        with daemon.api() as api:
            while not over.wait(_LIFE_MS / 4_000):
                api.request("POST", f"/sandboxes/{sandbox}/timeout", {"timeoutMs": _LIFE_MS})

    keeping = threading.Thread(target=keep)
    keeping.start()
    try:
        yield
    finally:
        over.set()
        keeping.join()


@pytest.mark.slow
def test_no_question_that_the_document_allows_or_forbids_is_answered_otherwise(
    small_daemon: Daemon, tmp_path: Any, figure: Say
) -> None:
    with small_daemon.api() as api:
        home = api.sandbox(timeoutMs=_LIFE_MS)
        spare = api.sandbox(timeoutMs=1_000)
        process = api.request("POST", f"/sandboxes/{home.id}/processes", {"command": "echo one"}).json["id"]
        assert api.request("GET", f"/sandboxes/{home.id}/processes/{process}/wait").json["status"] == "exited"
        snapshot = api.request("POST", f"/sandboxes/{home.id}/snapshots").json["id"]
        user = api.request("POST", "/users", {"name": "spare"}).json["id"]
        spare_key = api.request("POST", "/keys", {"name": "spare"}).json["id"]
        ids = {"sandboxId": home.id, "processId": process, "snapshotId": snapshot}
        ids |= {"userId": user, "keyId": spare_key}
        document = fitted(api.request("GET", "//openapi.json").json, ids, spare.id)
        # Guesses lock out a preset key, and schemathesis guesses; one that nsbox made is let in.
        key = api.request("POST", "/keys", {"name": "schemathesis"}).json["key"]
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    (tmp_path / "schemathesis.toml").write_text(_CONFIG)
    # One worker: with several, hypothesis compiles in several threads, and Python 3.11 may fail at that.
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(tmp_path / "schemathesis.toml"),
        "run",
        str(tmp_path / "openapi.json"), "--url", small_daemon.url, "--workers", "1",
        "--header", f"Authorization: Bearer {key}", "--checks", _CHECKS,
        *_LEFT_OUT, "--max-examples", _EXAMPLES, *_SEED,
        "--request-timeout", str(30 * SLOWNESS), "--continue-on-failure", "--no-color",
    ]  # fmt: skip
    with _kept_alive(small_daemon, home.id):
        asked = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=_SECONDS * SLOWNESS
        )
    told = asked.stdout + asked.stderr
    (tmp_path / "told").write_text(told)
    assert asked.returncode == 0, told[-20_000:]
    print(told[told.rfind("SUMMARY") :])
    with small_daemon.api(key) as api:  # nothing was asked in vain
        assert api.request("GET", f"/sandboxes/{home.id}").json["status"] == "running"
    generated = re.search(r"(\d+) generated", told)
    assert generated, told[-2_000:]
    assert "Rate limited" not in told
    assert "Traceback" not in small_daemon.log()
    assert "incident" not in re.sub(r"incident \w+: HostProblem.*", "", small_daemon.log())
    figure(12, tried=int(generated[1]))
