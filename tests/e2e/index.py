"""Where `pip install` in a sandbox finds packages: the index that this machine's pip uses, or one of a test
host's, with packages that stand in for real ones."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.e2e import hosts
from tests.e2e.client import Sandbox
from tests.e2e.hosts import World

_USUAL = "https://pypi.org/simple"
#: Not that of the tests: a virtual environment may have no pip.
_PYTHON = "/usr/bin/python3"
#: Where a test host serves its own.
PORT = 8000


class Index(NamedTuple):
    """``addresses``: those of its host."""

    url: str
    addresses: tuple[str, ...]

    def told(self, box: Sandbox) -> None:
        """Make it the index of the sandbox's pip, as an operator's image would have it."""
        host = urlsplit(self.url).hostname
        trusted = f"trusted-host = {host}\n" if self.url.startswith("http:") else ""
        text = f"[global]\nindex-url = {self.url}\n{trusted}disable-pip-version-check = true\n"
        assert box.write("/etc/pip.conf", text).status == 200


def _configured() -> str:
    """By pip's own word, where there is one."""
    done = subprocess.run(
        [_PYTHON, "-m", "pip", "config", "get", "global.index-url"],
        capture_output=True,
        text=True,
        check=False,
    )
    return os.environ.get("PIP_INDEX_URL") or done.stdout.strip() or _USUAL


def of_this_machine(package: str, folder: str) -> Index:
    """Skips where this machine itself gets no such package from it."""
    url = _configured()
    parts = urlsplit(url)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or parts.scheme, type=socket.SOCK_STREAM)
    except OSError as error:
        pytest.skip(f"this machine's package index has no address: {error}")
    addresses = tuple(sorted({str(one[4][0]) for one in found}))
    if any(ip_address(one).is_loopback for one in addresses):
        pytest.skip("this machine's package index is on its loopback, where no sandbox gets")
    # Without the machine's other sources: a sandbox has none of its folders.
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": folder, "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0",
        "PIP_TIMEOUT": "10", "PIP_CERT": os.environ.get("PIP_CERT", ""),
    }  # fmt: skip
    environment = {name: value for name, value in environment.items() if value}
    words = [_PYTHON, "-m", "pip", "download", "-q", "--no-deps", "--no-cache-dir", "-d", folder, "-i", url]
    try:
        done = subprocess.run(
            [*words, package], capture_output=True, text=True, timeout=120, check=False, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"this machine's own pip does not get {package}: {type(error).__name__}")
    if done.returncode:
        pytest.skip(f"this machine's own pip does not get {package} from its index")
    return Index(url, addresses)


def wheel(folder: str, name: str, version: str) -> None:
    """One package of one module, in a simple index (PEP 503)."""
    file_name = f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    page_name = name.replace("_", "-")
    os.makedirs(f"{folder}/simple/{page_name}")
    with zipfile.ZipFile(f"{folder}/{file_name}", "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]))
    with open(f"{folder}/{file_name}", "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    with open(f"{folder}/simple/{page_name}/index.html", "w", encoding="ascii") as page:
        page.write(f'<html><body><a href="../../{file_name}#sha256={digest}">{file_name}</a></body></html>')


@contextlib.contextmanager
def on_a_test_host(world: World, folder: str) -> Iterator[Index]:
    """Of the internet, as far as sandboxes can see."""
    source = (
        "import http.server, sys, functools\n"
        "handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[2])\n"
        "server = http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[3])), handler)\n"
        "print('ready', flush=True)\n"
        "server.serve_forever()\n"
    )
    command = [sys.executable, "-c", source, hosts.INTERNET4, folder, str(PORT)]
    with subprocess.Popen(
        ["ip", "netns", "exec", world.around, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            yield Index(f"http://internet.example:{PORT}/simple", (hosts.INTERNET4,))
        finally:
            server.kill()
