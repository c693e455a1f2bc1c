"""docs/client.md, line by line, against a real daemon; and every method of the client is in it."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nsbox.client import Client, NsboxError, Output
from nsbox.client.errors import NotFound
from tests.e2e.daemon import Daemon
from tests.registries import tools
from tests.registries.fake import FakeRegistry, serving
from tests.registries.images import image, layer

_PAGE = Path(__file__).parents[2] / "docs" / "client.md"
_BLOCK = re.compile(r"(?:<!-- needs (?P<needs>\S+) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)
_OPTIONS = doctest.ELLIPSIS


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with serving() as one:
        yield one


def blocks() -> Iterator[tuple[str, str, str | None]]:
    for found in _BLOCK.finditer(_PAGE.read_text()):
        yield found["kind"], found["text"], found["needs"]


def is_there(client: Client, route: str) -> bool:
    """Whether this daemon has it: 404 is another answer than "it is not for you"."""
    try:
        {"/me": client.me, "/usage": client.usage, "/audit": client.audit}[route]()
    except NotFound as error:
        return error.code != "route_not_found"
    except NsboxError:
        return True
    return True


def test_every_line_of_the_page(own_daemon: Daemon, registry: FakeRegistry, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"0123456789" * 100_000)
    program = tools.busybox()
    made = image([layer({"bin/busybox": program, "bin/sh": "busybox", "bin/echo": "busybox"})])
    client = Client(own_daemon.url, own_daemon.key)
    names: dict[str, Any] = {
        "client": client,
        "local": str(large),
        "steps": [],
        "stages": [],
        "screen": [],
        "image": registry.push("team/docs", made),
        "Output": Output,
        "NsboxError": NsboxError,
    }
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(optionflags=_OPTIONS, verbose=False)
    # Not verbose: doctest would take a -v of pytest for its own, and tell of what is well too.
    told: list[str] = []
    skipped = []
    with client:
        for number, (kind, text, needs) in enumerate(blocks()):
            if kind != "pycon":
                continue
            if needs is not None and not is_there(client, needs):
                skipped.append(needs)
                continue
            test = parser.get_doctest(text, names, f"block {number}", str(_PAGE), 0)
            test.globs = names  # the next block goes on with what this one has made
            runner.run(test, out=told.append, clear_globs=False)
            assert not told, "".join(told)
    print(f"client.md: {runner.tries} lines; not on this daemon: {skipped or 'nothing'}")
    assert runner.tries > 80


def test_the_python_of_the_page_and_of_the_readme(own_daemon: Daemon) -> None:
    """As programs of their own, with the address and the key where they expect them."""
    assert own_daemon.key is not None
    readme = (_PAGE.parents[1] / "README.md").read_text()
    example = next(
        text for text in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "nsbox.client" in text
    )
    tasks = next(text for kind, text, _ in blocks() if kind == "python" and "AsyncClient" in text)
    for program, wanted in (
        (example, "42\n"),
        (tasks + "import trio; trio.run(main)", "hello\n\none\ntwo\nrunning\n"),
        (tasks + "import asyncio; asyncio.run(main())", "hello\n\none\ntwo\nrunning\n"),
    ):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            env={"NSBOX_URL": own_daemon.url, "NSBOX_API_KEY": own_daemon.key, "PATH": "/usr/bin:/bin"},
            cwd=_PAGE.parents[1], capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert (done.stdout, done.stderr, done.returncode) == (wanted, "", 0), program
