"""Another version of nsbox under a running service. The last file of its suite."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.daemon import wait_until
from tests.service.machine import PATIENCE, SUPPLIES, Service, sh
from tests.service.test_unit import counting_sandbox, still_counts

PIPX = "PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/usr/local/bin pipx"
MESSAGES = "/opt/pipx/venvs/nsbox/lib/python3.11/site-packages/nsbox/wire/messages.py"
METADATA = Path("/opt/pipx/venvs/nsbox/pipx_metadata.json")
#: python-prctl is compiled, emulated.
INSTALL = 900.0


def test_pipx_upgrade_keeps_sandboxes_and_their_commands(service: Service) -> None:
    """Installed as from an index, which is the folder that pip.conf of the machine names."""
    installed = json.loads(METADATA.read_text())
    installed["main_package"]["package_or_url"] = "nsbox"
    METADATA.write_text(json.dumps(installed))
    sh(f"cp {SUPPLIES}/next/nsbox-*.whl /opt/wheels")
    upgraded(service, "upgrade nsbox", "99.0.0")


def test_installing_another_wheel_does_as_well(service: Service) -> None:
    """Back to the former version, as one may want to."""
    version = next(Path(f"{SUPPLIES}/dist").glob("nsbox-*.whl")).name.split("-")[1]
    upgraded(service, f"install --force {SUPPLIES}/dist/nsbox-*.whl", version)


def upgraded(service: Service, how: str, version: str) -> None:
    api = service.api()
    sandbox = counting_sandbox(api)
    sandbox.write("/root/kept", "kept")
    old, before = service.health()["version"], service.process("nsbox-api")
    sh(f"{PIPX} {how}", timeout=INSTALL)
    sh("nsbox setup --service")
    still_counts(sandbox)
    assert service.health()["version"] == old
    sh("systemctl reload nsbox")
    service.wait_for_another_api(before)
    assert service.health()["version"] == version != old
    still_counts(sandbox)
    assert sandbox.out("cat /root/kept") == "kept"
    listed = sandbox.request("GET", "/processes").json
    assert [one["status"] for one in listed] == ["running"]
    # The new one makes sandboxes with the old keeper, too.
    assert api.sandbox().out("echo made") == "made\n"


def test_another_protocol_is_refused_and_costs_no_sandbox(service: Service) -> None:
    api = service.api()
    sandbox = counting_sandbox(api)
    pid = sh("pgrep --full 'sleep 0.2' | head -1").strip()
    assert pid
    sh(f"cp {MESSAGES} /root/messages.py")
    try:
        sh(f"sed -i 's/^PROTOCOL_VERSION = .*/PROTOCOL_VERSION = 99/' {MESSAGES} && systemctl reload nsbox")
        wait_until(
            lambda: "keeper is of another version than api" in str(service.journal("--priority=err")),
            PATIENCE,
            "the journal says what is wrong",
        )
        assert service.show("ActiveState") in ("active", "reloading")
    finally:
        sh(f"cp /root/messages.py {MESSAGES}")
    # Nobody needs to do anything more: the next API process is of the right version again.
    wait_until(lambda: service.health().get("status") == "ok", PATIENCE, "it serves again")
    still_counts(sandbox)
