"""``nsbox image`` where no daemon runs: it starts one on the state folder, and leaves no trace of that."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon, processes
from tests.registries import tools
from tests.registries.fake import FakeRegistry, serving
from tests.registries.images import docker_tar, image, layer


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with serving() as one:
        yield one


@pytest.fixture
def daemon(daemon_factory: Callable[..., Daemon]) -> Daemon:
    """Not started: a state folder, and whoever it belongs to."""
    return daemon_factory(key=None, start=False)


def nsbox_processes(daemon: Daemon) -> set[int]:
    """Daemons and what is theirs."""
    found = set()
    for one in processes():
        try:
            arguments = Path(f"/proc/{one.pid}/environ").read_bytes()
        except OSError:
            continue
        if daemon.state_dir.encode() in arguments:
            found.add(one.pid)
    return found


def test_the_commands_before_the_first_start(daemon: Daemon, registry: FakeRegistry) -> None:
    program = tools.busybox()
    made = image([layer({"bin/busybox": program, "bin/sh": "busybox", "n": b"before"})])
    name = registry.push("team/tool", made)

    def nsbox(*arguments: str, status: int = 0) -> Any:
        done = daemon.nsbox_on_state(*arguments)
        assert done.returncode == status, (arguments, done)
        return done

    pulled = nsbox("image", "pull", name, "--progress")
    assert pulled.stdout == f"{name}@{made.digest}\n"
    assert pulled.stderr.splitlines()[0] == "resolving"
    assert pulled.stderr.splitlines()[-1] == "done"
    # A state that is over before it could be told is skipped, so only the last one is sure to be there.
    stages = re.findall(r"^[0-9a-f]{12}  ([a-z]+)$", pulled.stderr, re.MULTILINE)
    assert stages[-1:] == ["done"], pulled.stderr
    assert nsbox("image", "pull", name).stderr == "", "no progress without a terminal, unless it is asked for"

    listed = nsbox("image", "list")
    assert listed.stdout.splitlines()[0].split() == ["IMAGE", "DIGEST", "SIZE", "LAYERS", "PULLED"]
    assert listed.stdout.splitlines()[1].split()[:2] == [name, made.digest[7:19]]
    assert listed.stderr.startswith("1 image, 1 layer, ")
    assert json.loads(nsbox("image", "list", "--json").stdout)["disk"]["images"] == 1
    assert json.loads(nsbox("image", "inspect", name).stdout)["digest"] == made.digest

    for command in ("inspect", "remove"):
        told = nsbox("image", command, "nope", status=1)
        assert (
            told.stderr == "nsbox: the image 'nope' is not here\n  remedy: list them with nsbox image list\n"
        )
    told = nsbox("image", "pull", f"{registry.host}/none", status=1)
    assert f"{registry.host} does not have the image" in told.stderr
    assert told.stderr.endswith("  remedy: check its name and tag\n")

    assert nsbox_processes(daemon) == set(), "a daemon ends with the command"
    assert nsbox("keys", "list").stdout.splitlines()[1:] == [], "no key is left"
    daemon.start()
    assert any(line.startswith("nsbox key: in ") for line in daemon.printed), (
        "this is a first start all the same"
    )

    # Now the same commands ask the daemon that runs, and leave as little.
    assert nsbox("image", "remove", name).stdout == f"{name}\n"
    assert "0 images" in nsbox("image", "list").stderr
    assert len(nsbox("keys", "list").stdout.splitlines()) == 2


def test_what_is_no_archive(daemon: Daemon) -> None:
    folder = Path(daemon.state_dir) / "files"
    folder.mkdir()
    os.chmod(folder, 0o755)
    (folder / "text").write_text("no archive, but long enough to be one, perhaps" * 20)
    (folder / "cut").write_bytes(docker_tar(image([layer({"a": b"1" * 9000})]), ["a:1"])[:2000])
    for path, sentence in (
        ("text", "this is no tar archive that can be read"),
        ("cut", "unexpected end of data"),
        (".", "is no OCI layout: it has no file oci-layout"),
    ):
        told = daemon.nsbox_on_state("image", "import", str(folder / path), "--name", "x")
        assert told.returncode == 1
        assert told.stderr.startswith("nsbox: "), told
        assert sentence in told.stderr
        assert "Traceback" not in told.stderr
