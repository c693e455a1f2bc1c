"""Images from a real registry, made by real tools, to running commands."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.client import Answer, Api, Sandbox
from tests.e2e.daemon import Daemon
from tests.e2e.test_sandboxes import check_problem
from tests.registries import tools
from tests.registries.images import docker_tar, image, layer
from tests.registries.tools import PASSWORD, DebianRegistry


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="nsbox-images-", dir="/var/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def registry() -> Iterator[DebianRegistry]:
    with tools.debian_registry() as one:
        yield one


@pytest.fixture(scope="module")
def daemon(own_daemon: Daemon) -> Daemon:
    return own_daemon


@pytest.fixture(scope="module")
def busybox(scratch: Path) -> str:
    """Made by umoci, in the manner of Alpine."""
    if os.geteuid() != 0:
        pytest.skip("umoci keeps owners only as root")
    folder = scratch / "busybox"
    folder.mkdir()
    config = ("--config.env", "A=image", "--config.workingdir", "/srv/work", "--config.user", "app")
    return tools.umoci_image(folder, tools.busybox_root(folder), *config)


@pytest.fixture(scope="module")
def tiny(registry: DebianRegistry, busybox: str) -> str:
    """Its reference in the registry."""
    return registry.push(busybox, "team/tiny:1")


@pytest.fixture(scope="module")
def program() -> bytes:
    return tools.busybox()


def layers_of(daemon: Daemon) -> set[str]:
    folder = os.path.join(daemon.state_dir, "layers")
    return {name for name in os.listdir(folder) if not name.startswith("default-")}


def prune(api: Api) -> Answer:
    answer = api.request("POST", "/images/prune", {"all": True})
    assert answer.status == 200, answer
    return answer


# ---- the first time


def test_a_newcomers_first_sandbox_from_an_image(
    tiny: str, make_sandbox: Callable[..., Sandbox], api: Api
) -> None:
    """POST /sandboxes with a name in a local registry works at once."""
    sandbox = make_sandbox(image=tiny.replace("127.0.0.1", "localhost"))
    assert sandbox.out("echo $A; pwd; id -un; id -Gn; cat /etc/os-release").splitlines() == [
        "image",
        "/srv/work",
        "app",
        "app staff",
        "ID=alpine",
    ]
    assert sandbox.out("echo $HOME") == "/home/app\n"
    assert api.get(sandbox.id)["templateId"].endswith("/team/tiny:1")
    assert sandbox.out("id -u; pwd", user="root") == "0\n/root\n"
    assert sandbox.out("id -u; id -g", user="4000:50") == "4000\n50\n"
    assert sandbox.out("stat -c %u:%g /home/app /srv").splitlines() == ["1000:1000", "0:0"]
    assert sandbox.out("echo $A $B", env={"A": "mine", "B": "2"}) == "mine 2\n"


def test_the_second_sandbox_asks_nobody(tiny: str, make_sandbox: Callable[..., Sandbox], api: Api) -> None:
    make_sandbox(image=tiny)
    found = next(one for one in api.request("GET", "/images").json["images"] if one["image"] == tiny)
    make_sandbox(image=tiny, pull="never")
    again = next(one for one in api.request("GET", "/images").json["images"] if one["image"] == tiny)
    assert again["pulledAt"] == found["pulledAt"]
    assert (found["config"]["user"], found["platform"], found["shell"]) == ("app", "linux/amd64", True)


def test_what_one_writes_no_other_sees(tiny: str, make_sandbox: Callable[..., Sandbox]) -> None:
    one, two = make_sandbox(image=tiny), make_sandbox(image=tiny)
    one.out("echo x >/root/x; rm /bin/ls", user="root")
    assert two.run("cat /root/x", user="root")["exitCode"] == 1
    assert "busybox" in two.out("ls /bin")


@pytest.mark.parametrize(
    ("image", "status", "code"),
    [
        ("{}/none:1", 422, "image_not_available"),
        ("127.0.0.1:1/x", 502, "registry_failed"),
        ("Not A Name", 422, "invalid_field"),
    ],
)
def test_images_that_cannot_be_had(
    registry: DebianRegistry, api: Api, image: str, status: int, code: str
) -> None:
    answer = api.request("POST", "/sandboxes", {"image": image.format(registry.host)})
    field = None if code == "registry_failed" else "image"
    check_problem(answer, status, code, field)
    assert api.request("GET", "/sandboxes").json == []


def test_never(registry: DebianRegistry, busybox: str, api: Api) -> None:
    name = registry.push(busybox, "team/never:1")
    answer = api.request("POST", "/sandboxes", {"image": name, "pull": "never"})
    check_problem(answer, 422, "image_not_available", "image")


# ---- forms of images


@pytest.mark.parametrize(
    "form",
    [
        ("--format", "v2s2"),
        ("--format", "oci"),
        ("--format", "oci", "--dest-compress-format", "zstd"),
        ("--format", "v2s2", "--dest-compress-format", "gzip"),
    ],
    ids=["docker", "oci", "zstd", "docker-gzip"],
)
def test_as_skopeo_pushes_it(
    registry: DebianRegistry,
    scratch: Path,
    make_sandbox: Callable[..., Sandbox],
    program: bytes,
    form: tuple[str, ...],
) -> None:
    """A layer of its own for each, so that none is there already; plain, so that skopeo packs it."""
    name = "-".join(form).replace("--", "")
    parts = [layer({"bin/busybox": program, "bin/sh": "busybox", "note": name.encode()}, "none")]
    folder = scratch / name
    folder.mkdir()
    reference = registry.push(tools.write_layout(folder, image(parts)), f"forms/{name}:1", *form)
    sandbox = make_sandbox(image=reference)
    assert sandbox.out("/bin/busybox cat /note") == name


def test_as_buildah_makes_it(
    registry: DebianRegistry, scratch: Path, make_sandbox: Callable[..., Sandbox], program: bytes
) -> None:
    if os.geteuid() != 0:
        pytest.skip("buildah without root needs ids of its own")
    tools.need("buildah")
    (scratch / "busybox-copy").write_bytes(program)
    os.chmod(scratch / "busybox-copy", 0o755)
    store = ["--root", str(scratch / "buildah"), "--runroot", str(scratch / "run"), "--storage-driver", "vfs"]
    container = tools.run("buildah", *store, "from", "scratch").strip()
    tools.run("buildah", *store, "copy", container, str(scratch / "busybox-copy"), "/bin/busybox")
    tools.run("buildah", *store, "copy", container, str(scratch / "busybox-copy"), "/bin/sh")
    tools.run("buildah", *store, "config", "--env", "BY=buildah", "--cmd", "/bin/sh", container)
    target = f"docker://{registry.host}/buildah/made:1"
    tools.run("buildah", *store, "commit", "--tls-verify=false", container, target)
    assert make_sandbox(image=f"{registry.host}/buildah/made:1").out("echo $BY") == "buildah\n"


def test_an_image_that_is_one_program(
    registry: DebianRegistry, scratch: Path, make_sandbox: Callable[..., Sandbox], program: bytes
) -> None:
    """No shell, no /etc/passwd, no folders: as FROM scratch with a static binary."""
    folder = scratch / "scratch-like"
    folder.mkdir()
    one = image([layer({"busybox": program})], User="65534", Entrypoint=["/busybox"], Cmd=["id", "-u"])
    sandbox = make_sandbox(image=registry.push(tools.write_layout(folder, one), "scratch:1"))
    assert sandbox.out(["/busybox", "id", "-u"]) == "65534\n"
    assert sandbox.out(["/busybox", "pwd"]) == "/\n"
    assert sandbox.out(["/busybox", "id", "-u"], user="0") == "0\n"
    for answer in (sandbox.exec("id"), sandbox.request("POST", "/processes", {"command": "id"})):
        problem = check_problem(answer, 422, "no_shell", "command")
        assert "list" in problem["remedy"]
    check_problem(sandbox.exec(["/busybox", "id"], user="app"), 422, "invalid_field", "user")


def test_whiteouts_and_shared_layers(
    registry: DebianRegistry,
    scratch: Path,
    daemon: Daemon,
    api: Api,
    make_sandbox: Callable[..., Sandbox],
    program: bytes,
) -> None:
    base = layer({"bin/busybox": program, "bin/sh": "busybox", "d/a": b"a", "d/b": b"b", "gone": b"x"})
    top = layer({".wh.gone": b"", "d/.wh.a": b"", "d/c": b"c"})
    opaque = layer({"d/.wh..wh..opq": b"", "d/new": b"n"})
    names = []
    for name, parts in (("one", [base, top]), ("two", [base, opaque]), ("three", [base, top, base])):
        folder = scratch / f"shared-{name}"
        folder.mkdir()
        names.append(registry.push(tools.write_layout(folder, image(parts)), f"shared/{name}:1"))
    prune(api)
    before = layers_of(daemon)
    one, two, three = (make_sandbox(image=name) for name in names)
    assert len(layers_of(daemon) - before) == 3, "the base is there once"
    assert one.out("cd /d && /bin/busybox ls; [ -e /gone ] || echo no") == "b\nc\nno\n"
    assert two.out("cd /d && /bin/busybox ls; [ -e /gone ] && echo yes") == "new\nyes\n"
    assert three.out("cd /d && /bin/busybox ls; [ -e /gone ] && echo yes") == "a\nb\nc\nyes\n"
    for name in names:
        assert api.request("DELETE", f"/images/{name}").status == 200
    assert one.out("cd /d && /bin/busybox ls") == "b\nc\n", "who lives keeps its layers"
    assert len(layers_of(daemon) - before) == 3
    for sandbox in (one, two, three):
        api.kill(sandbox.id)
    prune(api)
    assert layers_of(daemon) == before


def test_127_layers(
    registry: DebianRegistry, scratch: Path, api: Api, make_sandbox: Callable[..., Sandbox], program: bytes
) -> None:
    """Their names have more than one page, and each layer counts."""
    parts = [layer({"bin/busybox": program, "bin/sh": "busybox"})]
    parts += [layer({f"n/{number}": b"x", "last": str(number).encode()}, "none") for number in range(126)]
    folder = scratch / "tall"
    folder.mkdir()
    name = registry.push(tools.write_layout(folder, image(parts)), "tall:1")
    sandbox = make_sandbox(image=name)
    assert sandbox.out("cd /n && /bin/busybox ls | /bin/busybox wc -l; /bin/busybox cat /last") == "126\n125"
    assert len(api.request("GET", f"/images/{name}").json["layers"]) == 127
    parts.append(layer({"one": b"more"}, "none"))
    folder = scratch / "taller"
    folder.mkdir()
    name = registry.push(tools.write_layout(folder, image(parts)), "taller:1")
    problem = check_problem(api.request("POST", "/sandboxes", {"image": name}), 422, "image_refused", "image")
    assert "128 layers" in problem["detail"]


def test_a_debian_with_python(
    registry: DebianRegistry, scratch: Path, api: Api, make_sandbox: Callable[..., Sandbox]
) -> None:
    """More than 100 MB, by mmdebstrap and umoci."""
    if os.geteuid() != 0:
        pytest.skip("umoci keeps owners only as root")
    name = registry.push(tools.debian_image(scratch), "debian:python")
    shutil.rmtree(scratch / "debian")
    sandbox = make_sandbox(image=name)
    assert sandbox.out("python3 -c 'print(6*7)'") == "42\n"
    assert sandbox.out("dpkg -s python3-minimal | head -1") == "Package: python3-minimal\n"
    assert sandbox.out("stat -c '%a %G' /var/local /usr/bin/passwd") == "2775 staff\n4755 root\n"
    assert api.request("GET", f"/images/{name}").json["sizeBytes"] > 100_000_000


# ---- who may


def test_a_registry_that_wants_a_password(
    busybox: str, daemon_factory: Callable[..., Daemon], scratch: Path
) -> None:
    with tools.debian_registry(login=True) as registry:
        name = registry.push(busybox, "private/tiny:1")
        auth = Path(tempfile.mkdtemp(dir="/var/tmp")) / "auth.json"
        try:
            os.chmod(auth.parent, 0o755)
            daemon = daemon_factory(settings={"registry_auth_files": str(auth)})
            with daemon.api() as api:
                answer = api.request("POST", "/sandboxes", {"image": name})
                problem = check_problem(answer, 422, "image_not_available", "image")
                assert "credentials" in problem["remedy"]
                tools.run(
                    "skopeo", "login", "--tls-verify=false", "--authfile", str(auth), "-u", "ann",
                    "-p", PASSWORD, registry.host,
                )  # fmt: skip
                auth.chmod(0o644)
                # No restart: credentials are read at each pull.
                sandbox = api.sandbox(image=name)
                assert sandbox.out("id -un") == "app\n"
            assert PASSWORD not in daemon.log()
            shown = json.loads(auth.read_text())["auths"][registry.host]["auth"]
            assert shown not in daemon.log()
        finally:
            shutil.rmtree(auth.parent)


def test_only_what_is_allowed(tiny: str, daemon_factory: Callable[..., Daemon]) -> None:
    registry = tiny.partition("/")[0]
    one = daemon_factory(settings={"images_allowed": f"{registry}/team/*"})
    assert one.nsbox_on_state("users", "create", "ann").returncode == 0
    key = one.nsbox_on_state("keys", "create", "hers", "--user", "ann").stdout.strip()
    with one.api(key) as api:
        check_problem(
            api.request("POST", "/sandboxes", {"image": "alpine"}), 403, "image_not_allowed", "image"
        )
        check_problem(api.request("POST", "/images", {"image": tiny}), 403, "forbidden")
        assert api.sandbox(image=tiny).out("id -un") == "app\n"


# ---- pulls


def test_many_at_once_are_one_pull(
    registry: DebianRegistry, scratch: Path, api: Api, make_sandbox: Callable[..., Sandbox], program: bytes
) -> None:
    folder = scratch / "at-once"
    folder.mkdir()
    parts = [layer({"bin/busybox": program, "bin/sh": "busybox", "n": b"at once"})]
    name = registry.push(tools.write_layout(folder, image(parts)), "at-once:1")
    with ThreadPoolExecutor(8) as pool:
        sandboxes = list(pool.map(lambda _: make_sandbox(image=name), range(8)))
    assert {one.out("echo $((1+1))") for one in sandboxes} == {"2\n"}


def test_progress_as_events(registry: DebianRegistry, scratch: Path, api: Api, program: bytes) -> None:
    folder = scratch / "events"
    folder.mkdir()
    name = registry.push(tools.write_layout(folder, image([layer({"x": program, "n": b"e"})])), "events:1")
    answer = api.request("POST", "/images", {"image": name}, headers={"Accept": "text/event-stream"})
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream"
    blocks = [block.split("\n") for block in answer.body.decode().strip().split("\n\n")]
    kinds = [lines[0].removeprefix("event: ") for lines in blocks]
    assert (kinds[0], kinds[-1]) == ("progress", "image")
    assert json.loads(blocks[-1][1].removeprefix("data: "))["image"] == name
    missing = api.request(
        "POST", "/images", {"image": f"{name}-none"}, headers={"Accept": "text/event-stream"}
    )
    assert "event: problem" in missing.body.decode()


# ---- archives, templates, the command line


def test_import_by_the_command_line(
    daemon: Daemon, api: Api, scratch: Path, make_sandbox: Callable[..., Sandbox]
) -> None:
    """A folder, a tar of it and what docker saves; by a client that is told of no address and no key."""
    program = tools.busybox()
    parts = [layer({"bin/busybox": program, "bin/sh": "busybox", "n": b"import"}, "none")]
    one = image(parts)
    folder = scratch / "import"
    folder.mkdir()
    tools.write_layout(folder, one)
    tools.run("tar", "-C", str(folder), "-cf", str(scratch / "layout.tar"), ".")
    (scratch / "saved.tar").write_bytes(docker_tar(one, ["saved:1"]))
    for path in (scratch, *scratch.rglob("*")):
        if path == scratch or folder in (path, *path.parents) or path.suffix == ".tar":
            path.chmod(0o755)

    def nsbox(*arguments: str) -> Any:
        return daemon.nsbox_on_state("image", *arguments)

    for path, name in ((folder, "mine/folder:1"), (scratch / "layout.tar", "mine/tar:1")):
        done = nsbox("import", str(path), "--name", name)
        assert done.stdout == f"docker.io/{name}@{one.digest}\n", done.stderr
        assert make_sandbox(image=name, pull="never").out("/bin/busybox cat /n") == "import"
    assert nsbox("import", str(scratch / "saved.tar")).stdout.startswith("docker.io/library/saved:1@")
    assert "docker.io/library/saved:1" in nsbox("list").stdout
    assert json.loads(nsbox("inspect", "saved:1").stdout)["source"] == "archive"
    assert nsbox("remove", "saved:1").stdout == "docker.io/library/saved:1\n"
    gone = nsbox("inspect", "saved:1")
    assert (gone.returncode, "not here" in gone.stderr) == (1, True)
    (scratch / "nameless.tar").write_bytes(docker_tar(one))
    (scratch / "nameless.tar").chmod(0o644)
    bad = nsbox("import", str(scratch / "nameless.tar"))
    assert (bad.returncode, "give a name" in bad.stderr) == (1, True), bad


def test_a_template_with_set_up_commands(
    tiny: str, daemon: Daemon, api: Api, scratch: Path, make_sandbox: Callable[..., Sandbox]
) -> None:
    file = scratch / "tool.toml"
    file.write_text(
        f'name = "tool"\nimage = "{tiny}"\nenv = {{TOOL = "1"}}\n'
        'start = ["/bin/sh", "-c", "echo up >/tmp/up; sleep 600"]\n'
        'setup = ["mkdir /opt && echo made >/opt/made && ln /opt/made /opt/link", "rm /bin/stat"]\n'
    )
    scratch.chmod(0o755)
    file.chmod(0o644)
    done = daemon.nsbox_on_state("image", "build", str(file))
    assert (done.returncode, done.stdout) == (0, "tool\n"), done.stderr
    assert "run mkdir /opt" in done.stderr
    assert any(one["id"] == "tool" and one["ready"] for one in api.request("GET", "/templates").json)
    sandbox = make_sandbox(templateId="tool")
    assert sandbox.out("cat /opt/made /opt/link; echo $A $TOOL; id -un; [ -e /bin/stat ] || echo no") == (
        "made\nmade\nimage 1\napp\nno\n"
    )
    assert sandbox.out("test /opt/made -ef /opt/link && echo same") == "same\n"
    (process,) = sandbox.request("GET", "/processes").json
    assert process["command"][0] == "/bin/sh"
    wrong = api.request(
        "POST", "/templates", {"name": "bad", "image": tiny, "setup": ["echo why >&2; exit 3"]}
    )
    problem = check_problem(wrong, 422, "build_failed", "setup")
    assert (problem["exitCode"], problem["stderr"]) == (3, "why\n")
    check_problem(
        api.request("POST", "/sandboxes", {"templateId": "bad"}), 422, "template_not_available", "templateId"
    )
    assert api.request("DELETE", "/images/template/tool").status == 200


def test_the_shipped_templates(api: Api) -> None:
    found = {one["id"]: one for one in api.request("GET", "/templates").json}
    assert set(found) >= {
        "default", "python:3.12-slim", "node:22-alpine", "golang:1.23-alpine", "rust:1-slim", "ubuntu:24.04",
        "alpine:latest",
    }  # fmt: skip
    assert found["default"]["ready"]
    check_problem(
        api.request("POST", "/sandboxes", {"templateId": "nope"}), 422, "template_not_available", "templateId"
    )
