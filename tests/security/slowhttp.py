"""slowhttptest, a program of others, against a daemon: slow heads (-H), slow bodies (-B), slow readers (-X);
and how long others wait meanwhile. ``sh scripts/slow [SECONDS]``; 20 s for each mode if none are given.
"""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
import sys
import time

from tests.e2e.client import BASE
from tests.e2e.daemon import Daemon
from tests.security.crowd import Others, descriptors_for

CONNECTIONS = 1_000
_RATE = 200  # new connections a second
_CLOSED = re.compile(r"closed:\s*(\d+)")


def modes(sandbox: str, key: str) -> dict[str, list[str]]:
    """What makes each mode, and which request it is. Slow bodies and readers have a key: without one they
    would be sent away with the head."""
    headers = ["-j", f"x\r\nAuthorization: Bearer {key}"]
    one = f"{BASE}/sandboxes/{sandbox}"
    return {
        "slow heads (-H)": ["-H", "-i", "5", "-x", "24"],
        "slow bodies (-B)": [
            "-B",
            "-i",
            "5",
            "-x",
            "24",
            "-f",
            "application/json",
            "-s",
            "60000",
            "-t",
            "POST",
            *headers,
            "-u",
            f"{one}/exec",
        ],
        "slow readers (-X)": [
            *("-X", "-w", "512", "-y", "1024", "-n", "5", "-z", "32", "-k", "3"),
            *(*headers, "-u", f"{one}/files?path=/tmp/large&raw=true"),
        ],
    }


def main() -> int:
    program = shutil.which("slowhttptest")
    if program is None:
        print("skipped: slowhttptest is not installed (apt-get install slowhttptest)")
        return 0
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    daemon = Daemon(key=secrets.token_urlsafe(32)).start()
    failed = False
    try:
        keys = [_user(daemon, name) for name in ("slow", "other")]
        with daemon.api(keys[0]) as slow, daemon.api(keys[1]) as other:
            sandbox = slow.sandbox()
            assert sandbox.exec("truncate -s 1G /tmp/large").json["exitCode"] == 0
            path = f"{BASE}/sandboxes/{other.create()}"
        for name, how in modes(sandbox.id, keys[0]).items():
            failed |= not _mode(daemon, program, name, how, seconds, keys[1], path)
    finally:
        daemon.close()
    return int(failed)


def _user(daemon: Daemon, name: str) -> str:
    assert daemon.nsbox_on_state("users", "create", name).returncode == 0
    made = daemon.nsbox_on_state("keys", "create", name, "--user", name)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def _mode(daemon: Daemon, program: str, name: str, how: list[str], seconds: int, key: str, path: str) -> bool:
    """Print the line of one mode; whether the others were served."""
    host, port = daemon.url.removeprefix("http://").split(":")
    address = host, int(port)
    target = how[how.index("-u") + 1] if "-u" in how else "/"
    options = how[: how.index("-u")] if "-u" in how else how
    common = ["-c", str(CONNECTIONS), "-r", str(_RATE), "-l", str(seconds), "-p", "3"]
    alone, others, start = Others(address, key, path), Others(address, key, path), daemon.rss_kib()
    with alone.at_work():
        time.sleep(2)
    with others.at_work(), descriptors_for(CONNECTIONS * 2):
        ran = subprocess.run(
            [program, *options, *common, "-u", f"{daemon.url}{target}"],
            capture_output=True, text=True, check=False, timeout=seconds * 5 + 60,
        )  # fmt: skip
        grown = daemon.rss_kib() - start
    closed = _CLOSED.findall(re.sub(r"\x1b\[[0-9;]*m", "", ran.stdout))
    print(
        f"{name} x {CONNECTIONS}, {seconds} s: {others.line()}, api {grown / 1024:+.0f} MiB, "
        f"{closed[-1] if closed else '?'} closed; alone: p99 = {alone.p99 * 1000:.0f} ms",
        flush=True,
    )
    return not others.errors and others.p99 < max(1.0, 10 * alone.p99)


if __name__ == "__main__":
    sys.exit(main())
