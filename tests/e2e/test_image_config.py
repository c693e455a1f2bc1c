"""What an image's config says of users, folders, environment and commands, as it is found in sandboxes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.client import Api, Sandbox
from tests.e2e.daemon import Daemon, wait_until
from tests.e2e.test_sandboxes import check_problem
from tests.registries import tools
from tests.registries.fake import FakeRegistry, serving
from tests.registries.images import MadeLayer, image, sha256

_PASSWD = (
    b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\n"
    b"daemon:x:2:2::/:/bin/false\n# a comment\n\nbroken line\n"
)
_GROUP = b"root:x:0:\nown:x:1001:\nstaff:x:50:daemon,app\nwheel:x:10:app\n"


@pytest.fixture(scope="module")
def registry() -> Iterator[FakeRegistry]:
    with serving() as one:
        yield one


@pytest.fixture(scope="module")
def daemon(own_daemon: Daemon) -> Daemon:
    return own_daemon


@pytest.fixture(scope="module")
def program() -> bytes:
    return tools.busybox()


@pytest.fixture(scope="module")
def base(program: bytes) -> MadeLayer:
    """Busybox with some users."""
    return _layer({"bin/busybox": program, "etc/passwd": _PASSWD, "etc/group": _GROUP}, ["home/app", "work"])


@pytest.fixture(scope="module")
def bare(program: bytes) -> MadeLayer:
    """A shell and not one other file: no /etc, no /tmp, no folder of anybody."""
    return _layer({"bin/busybox": program}, [])


def _layer(files: dict[str, bytes], folders: list[str]) -> MadeLayer:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name in folders:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o777
            archive.addfile(entry)
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            archive.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo("bin/sh")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        archive.addfile(link)
    return MadeLayer(raw.getvalue(), sha256(raw.getvalue()), "")


_WHO = "set -- $(/bin/busybox id -u) $(/bin/busybox id -g) $HOME; echo $*; /bin/busybox id -G"


@pytest.mark.parametrize(
    ("user", "seen", "groups"),
    [
        ("", "0 0 /root", {0}),
        ("root", "0 0 /root", {0}),
        ("app", "1000 1001 /home/app", {1001, 50, 10}),
        ("1000", "1000 1001 /home/app", {1001, 50, 10}),
        ("app:", "1000 1001 /home/app", {1001, 50, 10}),
        ("app:staff", "1000 50 /home/app", {50}),
        ("1000:50", "1000 50 /home/app", {50}),
        ("app:4444", "1000 4444 /home/app", {4444}),
        ("4000", "4000 0 /", {0}),
        ("4000:staff", "4000 50 /", {50}),
        ("4000:4001", "4000 4001 /", {4001}),
    ],
)
def test_users_as_docker_has_them(
    registry: FakeRegistry,
    make_sandbox: Callable[..., Sandbox],
    base: MadeLayer,
    user: str,
    seen: str,
    groups: set[int],
) -> None:
    name = registry.push("users/" + (user.replace(":", "-x") or "none"), image([base], User=user))
    first, second = make_sandbox(image=name).out(_WHO).splitlines()
    assert (first, {int(one) for one in second.split()}) == (seen, groups)


@pytest.mark.parametrize("user", ["nobody-such", "app:nogroup", "70000", "app:70000", "-1", ":staff"])
def test_users_that_are_not_there(
    registry: FakeRegistry, make_sandbox: Callable[..., Sandbox], base: MadeLayer, user: str
) -> None:
    """The sandbox can be made, since commands may name a user of their own; each that does not is told."""
    name = registry.push("nobody/" + user.replace(":", "-x-").strip("-"), image([base], User=user))
    sandbox = make_sandbox(image=name)
    problem = check_problem(sandbox.exec("echo"), 422, "invalid_field", "user")
    assert "the sandbox has no " in problem["detail"]
    assert sandbox.out("echo in", user="root") == "in\n"


def test_an_image_without_passwd(
    registry: FakeRegistry, make_sandbox: Callable[..., Sandbox], bare: MadeLayer
) -> None:
    plain, other = image([bare]), image([bare], User="1234:5", WorkingDir="/not/there")
    sandbox = make_sandbox(image=registry.push("bare/root", plain))
    assert sandbox.out(_WHO).splitlines() == ["0 0 /root", "0"]
    assert sandbox.out("pwd; /bin/busybox ls /").split() == ["/", "bin", "dev", "proc", "sys"]
    sandbox = make_sandbox(image=registry.push("bare/other", other))
    assert sandbox.out(_WHO).splitlines() == ["1234 5 /", "5"]
    assert sandbox.out("pwd") == "/\n", "a working directory that the image does not have"
    for root in ("0", "root"):  # root is known to nsbox, others would be to /etc/passwd
        assert sandbox.out("/bin/busybox id -u", user=root) == "0\n"
    check_problem(sandbox.exec("id", user="app"), 422, "invalid_field", "user")


def test_environment_and_folder(
    registry: FakeRegistry, make_sandbox: Callable[..., Sandbox], base: MadeLayer
) -> None:
    config = {"Env": ["A=1", "EMPTY=", "BARE", "EQ=a=b", "PATH=/bin"], "WorkingDir": "work"}
    sandbox = make_sandbox(image=registry.push("env", image([base], **config)), envVars={"A": "2"})
    assert sandbox.out("echo $A-$EMPTY-${BARE-unset}-$EQ; pwd; busybox true") == "2--unset-a=b\n/work\n"


def test_the_images_own_command_is_started_where_a_template_says_so(
    registry: FakeRegistry, make_sandbox: Callable[..., Sandbox], api: Api, base: MadeLayer
) -> None:
    """Entrypoint and command, as the image's user, in its folder, with its environment."""
    script = "(busybox id -u; busybox pwd; echo $WHAT $0 $1) >/work/who; exec busybox sleep 600"
    config = {
        "Entrypoint": ["/bin/sh", "-c", script],
        "Cmd": ["zero", "one"],
        "User": "app",
        "WorkingDir": "/work",
        "Env": ["WHAT=started", "PATH=/bin"],
    }
    name = registry.push("started", image([base], **config))
    answer = api.request("POST", "/templates", {"name": "service", "image": name, "startImage": True})
    assert answer.status == 200, answer
    sandbox = make_sandbox(templateId="service")
    wait_until(lambda: "started" in sandbox.run("busybox cat /work/who")["stdout"], 10)
    assert sandbox.out("busybox cat /work/who").splitlines() == ["1000", "/work", "started zero one"]
    (process,) = sandbox.request("GET", "/processes").json
    assert process["command"] == [*config["Entrypoint"], *config["Cmd"]]
    plain = make_sandbox(image=name)
    assert plain.request("GET", "/processes").json == [], "an image alone starts nothing"


_MUSL_PROGRAM = r"""
#include <pwd.h>
#include <stdio.h>
#include <unistd.h>
int main(void) {
    struct passwd *who = getpwuid(getuid());
    printf("%s at %s\n", who ? who->pw_name : "?", who ? who->pw_dir : "?");
    return 0;
}
"""


def test_the_family_of_alpine(
    registry: FakeRegistry, make_sandbox: Callable[..., Sandbox], program: bytes, tmp_path: Path
) -> None:
    """Busybox with all its applets, and a program that wants musl's loader: no bash, no glibc, no apt."""
    tools.need("musl-gcc")
    (tmp_path / "who.c").write_text(_MUSL_PROGRAM)
    tools.run("musl-gcc", "-o", str(tmp_path / "who"), str(tmp_path / "who.c"))
    loader = next(Path("/lib").glob("ld-musl-*.so.1"))
    files = {
        "bin/busybox": program,
        f"lib/{loader.name}": loader.read_bytes(),
        "usr/bin/who-am-i": (tmp_path / "who").read_bytes(),
        "etc/passwd": _PASSWD,
        "etc/group": _GROUP,
        "etc/os-release": b"ID=alpine\n",
    }
    config = {"User": "app", "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["/bin/sh"]}
    name = registry.push("alpine-like", image([_layer(files, ["tmp", "root"])], **config))
    sandbox = make_sandbox(image=name)
    assert sandbox.out("who-am-i") == "app at /home/app\n"
    assert (
        sandbox.out("busybox --install -s /bin && ls -la / | tail -n +2 | wc -l", user="root")
        .strip()
        .isdigit()
    )
    assert sandbox.out("printf '%s\\n' b a | sort | tr -d '\\n'; awk 'BEGIN { print 6 * 7 }'") == "ab42\n"
    assert sandbox.run("bash -c true")["exitCode"] == 127
