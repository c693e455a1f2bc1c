"""Daemons whose limits are tried out: small sandboxes, so that little has to be written to reach their ends.

As an ordinary user, controllers come with a scope of systemd's; as root on a host without systemd, from a
cgroup that root gives away. Quotas need root once: sudo is asked, without a password.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator

import pytest

from nsbox.host import facts
from tests.conftest import new_key
from tests.e2e.account import CHECKOUT, Runner, runner
from tests.e2e.client import Api, Sandbox
from tests.e2e.daemon import Daemon

#: Where quota tests keep their state: the first of these whose file system has project quotas.
PLACES = os.environ.get("NSBOX_TEST_QUOTA_DIRS", "/var/tmp:/scratch").split(":")
SMALL = {
    "NSBOX_MEMORY_MB": "32,2048,128",
    "NSBOX_STORAGE_MB": "16,4096,64",
    "NSBOX_EXEC_TIMEOUT_MS": "1,86400000,120000",
    "NSBOX_POOL_SIZE": "2",
}


def as_root(who: Runner, *command: str) -> subprocess.CompletedProcess[str]:
    """Run something as root; skips where that is not possible."""
    prefix = [] if who.as_root else ["sudo", "-n"]
    try:
        return subprocess.run(
            [*prefix, *command], cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=300
        )
    except FileNotFoundError:
        pytest.skip("only root can prepare this, and there is no sudo")


def state_in(place: str, who: Runner) -> str:
    """A new state folder below ``place``, the account's own."""
    path = tempfile.mkdtemp(prefix="nsbox-test-", dir=place)
    os.chmod(path, 0o700)
    if who.as_root:
        os.chown(path, who.uid, who.gid)
    return path


def quota_state(place: str) -> str:
    """A state folder with a pool of quotas. Skips where there can be none."""
    who = runner()
    if not os.path.isdir(place) or not facts.project_quota(place):
        pytest.skip(f"{place} is on no file system with project quotas")
    state = state_in(place, who)
    done = as_root(
        who,
        "env",
        *(f"{name}={value}" for name, value in SMALL.items()),
        *(who.python, "-m", "nsbox", "setup", "--quota-only", "--user", who.name, "--state-dir", state),
    )
    if done.returncode:
        shutil.rmtree(state)
        pytest.skip(f"root could not prepare quotas: {(done.stdout + done.stderr).strip()[-300:]}")
    return state


def started(state_dir: str | None = None, settings: dict[str, str] | None = None) -> Iterator[Daemon]:
    one = Daemon(key=new_key(), settings={**SMALL, **(settings or {})}, state_dir=state_dir)
    one.owns_state = True
    try:
        yield one.start()
    finally:
        one.close()


@pytest.fixture(scope="session")
def small() -> Iterator[Daemon]:
    """The daemon of most tests here; its storage is watched."""
    yield from started(settings={"NSBOX_STORAGE": "watched"})


Make = Callable[..., Sandbox]


def makers(daemon: Daemon) -> Iterator[Make]:
    made: list[Sandbox] = []
    api = daemon.api()

    def make(**wish: object) -> Sandbox:
        made.append(api.sandbox(**wish))
        return made[-1]

    yield make
    for one in made:
        assert api.kill(one.id).status == 200
    api.close()


@pytest.fixture
def make(small: Daemon) -> Iterator[Make]:
    """Sandboxes of the daemon that most tests share."""
    yield from makers(small)


def needs(sandbox: Sandbox, *limits: str) -> None:
    """Skips where the host does not let nsbox hold these limits."""
    enforced = sandbox.api.get(sandbox.id)["limits"]["enforced"]
    missing = [one for one in limits if one not in enforced]
    if missing:
        pytest.skip(f"no delegated controller here holds {', '.join(missing)}")


@pytest.fixture
def small_api(small: Daemon) -> Iterator[Api]:
    with small.api() as api:
        yield api
