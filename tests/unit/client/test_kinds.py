"""The client for threads is made from the one for tasks, and users of either are checked precisely."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
USE = """
from nsbox.client import {kind}, ExecResult, Exited, Output, ProcessInfo


{a}def main() -> None:
    {a}with {kind}() as client, {w}client.create(vcpus=1) as sandbox:
        result: ExecResult = {w}sandbox.exec("true", timeout=1.5)
        process = {w}sandbox.processes.start(["cat"], stdin_open=True)
        ended: ProcessInfo = {w}process.wait(timeout=1)
        data: bytes = {w}sandbox.files.read("/etc/hostname")
        {a}with sandbox.stream("true") as stream:
            {a}for event in stream:
                if isinstance(event, Output):
                    print(event.text.upper(), result, ended, data)
        {wrong}
"""


def _script() -> ModuleType:
    path = ROOT / "scripts" / "blocking_client.py"
    spec = importlib.util.spec_from_file_location("blocking_client", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_client_for_threads_is_what_is_made_from_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert _script().main(["--check"]) == 0, capsys.readouterr().out


def test_a_change_of_the_source_makes_it_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = _script()
    for kind in ("SOURCE", "TARGET"):
        copy = tmp_path / getattr(script, kind).name
        copy.mkdir()
        for one in getattr(script, kind).glob("*.py"):
            (copy / one.name).write_bytes(one.read_bytes())
        monkeypatch.setattr(script, kind, copy)
    changed = tmp_path / "asynchronous" / "streams.py"
    changed.write_text(changed.read_text() + "\n\nasync def more() -> None:\n    await later()\n")
    assert script.main(["--check"]) == 1
    assert "streams.py" in capsys.readouterr().out
    assert script.main([]) == 0
    assert "\n\ndef more() -> None:\n    later()\n" in (tmp_path / "blocking" / "streams.py").read_text()
    assert script.main(["--check"]) == 0


def _mypy(tmp_path: Path, wrong: tuple[str, str]) -> str:
    """What mypy says of two programs, of one kind each."""
    names = []
    for kind, wait, line in (("Client", "", wrong[0]), ("AsyncClient", "await ", wrong[1])):
        names.append(f"use_{kind.lower()}.py")
        a = "async " if wait else ""
        (tmp_path / names[-1]).write_text(USE.format(kind=kind, a=a, w=wait, wrong=line))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), *names],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        env={"MYPYPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    return done.stdout


@pytest.mark.slow
def test_mypy_checks_who_uses_either_kind(tmp_path: Path) -> None:
    """What is right in them is left alone, and what is wrong is found."""
    said = _mypy(tmp_path, ("sandbox.exec(7)", "number: int = sandbox.exec('true')"))
    assert 'Argument 1 has incompatible type "int"; expected "str | Iterable[str]"' in said
    assert 'expression has type "Coroutine[Any, Any, ExecResult]", variable has type "int"' in said
    assert "Found 2 errors in 2 files" in said
