"""The machine's nsbox.service, its users, and their shells."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from typing import Any

from tests.e2e.client import Api
from tests.e2e.daemon import wait_until

USER = "dev"
SUPPLIES = "/opt/supplies"
URL = "http://127.0.0.1:8080"
#: An emulated machine does in a minute what others do in some seconds.
PATIENCE = 180.0
_DROP_IN = "/etc/systemd/system/nsbox.service.d/test.conf"


def sh(line: str, *, check: bool = True, timeout: float = PATIENCE) -> str:
    """What a shell line of root's printed."""
    done = tried(line, timeout=timeout)
    assert not check or done.returncode == 0, f"{line}: status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def tried(line: str, *, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=_clean(os.environ.get("HOME", "/root")),
    )


def _clean(home: str, **more: str) -> dict[str, str]:
    path = f"{home}/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "HOME": home, "LANG": "C.UTF-8", **more}


def as_user(line: str, *, user: str = USER, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    """A shell line of an ordinary user's with a systemd manager of its own, as after a login."""
    entry = pwd.getpwnam(user)
    more = {"USER": user, "LOGNAME": user}
    if os.path.isdir(f"/run/user/{entry.pw_uid}"):
        more["XDG_RUNTIME_DIR"] = f"/run/user/{entry.pw_uid}"
    return subprocess.run(
        ["bash", "-c", line],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        user=entry.pw_uid,
        group=entry.pw_gid,
        extra_groups=[],
        cwd="/",
        env=_clean(entry.pw_dir, **more),
    )


class Service:
    """nsbox.service."""

    def __init__(self) -> None:
        self._key = ""
        self._clients: list[Api] = []

    def ensure(self) -> None:
        """Up and ready."""
        sh("systemctl reset-failed nsbox; systemctl start nsbox", check=True)

    def api(self) -> Api:
        if not self._key:
            self._key = sh("nsbox keys create test").strip()
        self._clients.append(Api(URL, self._key))
        return self._clients[-1]

    def close(self) -> None:
        for one in self._clients:
            one.close()

    def show(self, name: str) -> str:
        """A property of the unit."""
        return sh(f"systemctl show --value --property={name} nsbox").strip()

    @property
    def main_pid(self) -> int:
        return int(self.show("MainPID"))

    def process(self, title: str) -> int:
        """The pid of the main process's child of that name; 0 while there is none."""
        found = sh(f"pgrep --parent {self.main_pid} --exact {title}", check=False).split()
        return int(found[0]) if found else 0

    def wait_for_another_api(self, before: int) -> None:
        """Until a new API process serves."""

        def serves() -> bool:
            return self.process("nsbox-api") not in (0, before) and self.health().get("status") == "ok"

        wait_until(serves, PATIENCE, "another API process serves")

    def health(self) -> dict[str, Any]:
        done = tried(f"curl --silent --max-time 5 {URL}/healthz")
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {}

    def journal(self, *options: str) -> list[dict[str, Any]]:
        """Its messages since the machine was booted."""
        text = sh(f"journalctl --boot --unit=nsbox --output=json {' '.join(options)}")
        return [json.loads(line) for line in text.splitlines()]


class Drop:
    """A drop-in of nsbox.service."""

    def write(self, text: str) -> None:
        os.makedirs(os.path.dirname(_DROP_IN), exist_ok=True)
        with open(_DROP_IN, "w") as file:
            file.write(text)
        sh("systemctl daemon-reload && systemctl restart nsbox")

    def remove(self) -> None:
        if os.path.exists(_DROP_IN):
            os.unlink(_DROP_IN)
            sh("systemctl daemon-reload && systemctl reset-failed nsbox; systemctl restart nsbox")
