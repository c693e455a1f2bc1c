"""Real tools and a real registry: installed where missing, if that is possible, else a reason to skip."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PASSWORD = "s3cret-pw"
#: bcrypt of it: the only form that Debian's registry takes, and nothing in Python's library makes one.
_HTPASSWD = "ann:$2b$05$.Uyg0N24.Z7vEjKbspQ9M.VL77LjTE/IWpHcgSblghdW23xPQIhU.\n"
_PACKAGES = {
    "docker-registry": "docker-registry",
    "skopeo": "skopeo",
    "umoci": "umoci",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
    "openssl": "openssl",
    "musl-gcc": "musl-tools",
    "/bin/busybox": "busybox-static",
    "pasta": "passt",
    "ip": "iproute2",
    "nft": "nftables",
    "chromium": "chromium",
    "strace": "strace",
}


@cache
def need(*programs: str) -> None:
    """Have programs of Debian's, or skip."""
    missing = [_PACKAGES[name] for name in programs if shutil.which(name) is None]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip(f"needs {', '.join(missing)}, and only root of a Debian can install them")
    apt = ["apt-get", "-y", "-qq", "-o", "DPkg::Lock::Timeout=300", "--no-install-recommends"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for attempt in (["install", *missing], ["update"], ["install", *missing]):
        done = subprocess.run([*apt, *attempt], env=environment, capture_output=True, text=True)
        if done.returncode == 0 and attempt[0] == "install":
            return
    pytest.skip(f"apt-get could not install {', '.join(missing)}: {done.stderr.strip()[-300:]}")


def run(*command: str, **more: object) -> str:
    """A command that must succeed; what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **more)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    return str(done.stdout)


class DebianRegistry:
    """Debian's docker-registry on a free port of the loopback.

    ``auth`` and ``tls`` are sections of its configuration; with ``auth`` it takes the name ann with PASSWORD.
    """

    def __init__(self, folder: Path, *, auth: str = "", tls: tuple[Path, Path] | None = None) -> None:
        self.folder, self._auth, self._tls = folder, auth, tls
        self._process: subprocess.Popen[bytes] | None = None
        self.host = ""

    def start(self) -> None:
        for _ in range(5):  # the port may be taken between our look and its bind
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.host = f"127.0.0.1:{probe.getsockname()[1]}"
            config = self.folder / "config.yml"
            config.write_text(self._config())
            with (self.folder / "log").open("wb") as log:
                self._process = subprocess.Popen(
                    ["docker-registry", "serve", str(config)],
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                )
            if self._answers():
                return
            self.stop()
        raise AssertionError((self.folder / "log").read_text()[-2000:])

    def _config(self) -> str:
        storage = (
            f"storage: {{filesystem: {{rootdirectory: {self.folder}/data}}, delete: {{enabled: true}}}}\n"
        )
        tls = ""
        if self._tls is not None:
            tls = f", tls: {{certificate: {self._tls[0]}, key: {self._tls[1]}}}"
        http = f'http: {{addr: "{self.host}"{tls}}}\n'
        return f"version: 0.1\n{storage}{http}log: {{level: error}}\n{self._auth}"

    def _answers(self) -> bool:
        assert self._process is not None
        scheme = "http" if self._tls is None else "https"
        anyone = ssl._create_unverified_context()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"{scheme}://{self.host}/v2/", timeout=5, context=anyone).close()
            except urllib.error.HTTPError as error:
                error.close()
                return error.code == 401
            except OSError:
                time.sleep(0.05)  # nothing tells when it listens
            else:
                return True
        return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def push(self, source: str, name: str, *more: str) -> str:
        """With skopeo; the reference."""
        login = ["--dest-creds", f"ann:{PASSWORD}"] if self._auth else []
        target = f"docker://{self.host}/{name}"
        run("skopeo", "copy", "-q", "--dest-tls-verify=false", *login, *more, source, target)
        return f"{self.host}/{name}"


@contextlib.contextmanager
def debian_registry(
    *, login: bool = False, auth: str = "", tls: tuple[Path, Path] | None = None
) -> Iterator[DebianRegistry]:
    """A registry for a while. ``login``: it wants name and password themselves."""
    need("docker-registry", "skopeo")
    with tempfile.TemporaryDirectory(prefix="nsbox-registry-", dir="/var/tmp") as folder:
        if login:
            Path(folder, "htpasswd").write_text(_HTPASSWD)
            auth = f"auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}\n"
        registry = DebianRegistry(Path(folder), auth=auth, tls=tls)
        try:
            registry.start()
            yield registry
        finally:
            registry.stop()


def busybox() -> bytes:
    """A whole userland in one static program, or skip."""
    need("/bin/busybox")
    return Path("/bin/busybox").read_bytes()


def busybox_root(folder: Path) -> Path:
    """A root in the manner of Alpine: busybox, users, and not much else."""
    need("/bin/busybox")
    root = folder / "root"
    for name in ("bin", "etc", "root", "home/app", "srv/work", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy2("/bin/busybox", root / "bin/busybox")
    for applet in (
        "sh",
        "cat",
        "echo",
        "env",
        "id",
        "ls",
        "pwd",
        "rm",
        "stat",
        "test",
        "touch",
        "mkdir",
        "sleep",
    ):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\napp:x:1000:\nstaff:x:50:app\n")
    (root / "etc/os-release").write_text("ID=alpine\n")
    os.chown(root / "home/app", 1000, 1000)
    return root


def umoci_image(folder: Path, root: Path, *config: str) -> str:
    """An image of one layer, made by umoci; as skopeo names it."""
    need("umoci")
    layout = folder / "layout"
    run("umoci", "init", "--layout", str(layout))
    run("umoci", "new", "--image", f"{layout}:made")
    run("umoci", "insert", "--image", f"{layout}:made", str(root), "/")
    if config:
        run("umoci", "config", "--image", f"{layout}:made", *config)
    return f"oci:{layout}:made"


def debian_image(folder: Path) -> str:
    """Debian with Python, more than 100 MB, as a layout; as skopeo names it. Takes about a minute."""
    need("mmdebstrap", "umoci")
    release = Path("/etc/os-release").read_text()
    suite = next(
        (line.partition("=")[2] for line in release.splitlines() if line.startswith("VERSION_CODENAME=")), ""
    )
    tar = folder / "debian.tar"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=python3-minimal", suite, str(tar)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"mmdebstrap could not make a Debian: {done.stderr.strip()[-300:]}")
    layout = folder / "debian"
    run("umoci", "init", "--layout", str(layout))
    run("umoci", "new", "--image", f"{layout}:made")
    run("umoci", "raw", "add-layer", "--image", f"{layout}:made", str(tar))
    run("umoci", "config", "--image", f"{layout}:made", "--config.env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
    tar.unlink()
    return f"oci:{layout}:made"


def write_layout(folder: Path, made: object) -> str:
    """An image made by hand, as a layout; as skopeo names it."""
    from tests.registries.images import MadeImage

    assert isinstance(made, MadeImage)
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for digest, data in {**made.blobs, made.digest: made.manifest}.items():
        (blobs / digest.removeprefix("sha256:")).write_bytes(data)
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    notes = {"org.opencontainers.image.ref.name": "made"}
    entries = [made.descriptor(annotations=notes)]
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    return f"oci:{folder}:made"
