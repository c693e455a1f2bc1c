"""What the commands share that speak to a daemon."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from nsbox.cli import arguments, output, status
from nsbox.cli.cp import _place
from nsbox.cli.main import cli
from nsbox.cli.ps import span
from nsbox.model.errors import HostProblem
from tests.unit.client.fakes import KEY, SANDBOX, document, problem
from tests.unit.client.server import Seen, answer, cutting


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("NSBOX_URL", "NSBOX_API_KEY", "NSBOX_CONTEXT"):
        monkeypatch.delenv(name, raising=False)


def access(url: str) -> dict[str, str]:
    return {"NSBOX_URL": url, "NSBOX_API_KEY": KEY}


@pytest.mark.parametrize(
    ("end", "wanted"),
    [
        ((0, None, "exited"), 0),
        ((7, None, "exited"), 7),
        ((None, "TERM", "signaled"), 143),
        ((None, "KILL", "timedOut"), status.TIMED_OUT),
        ((None, "KILL", "oom"), 137),
        ((None, "KILL", "storageFull"), 137),
        ((None, None, "oom"), 137),
        ((None, None, "sandboxGone"), status.FAILED),
        ((None, "NOSUCH", "signaled"), status.FAILED),
    ],
)
def test_statuses(end: tuple[int | None, str | None, str | None], wanted: int) -> None:
    assert status.of(*end) == wanted


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-5, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (172_800, "2d")],
)
def test_spans(seconds: float, shown: str) -> None:
    assert span(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(None, "-"), (0, "0 B"), (1023, "1023 B"), (2048, "2 KiB"), (5 << 30, "5.0 GiB")]
)
def test_sizes(count: int | None, shown: str) -> None:
    assert output.size(count) == shown


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("sb_1:/a", ("sb_1", "/a")),
        ("sb_1:/a:b c", ("sb_1", "/a:b c")),
        ("./a:b", (None, "./a:b")),
        ("/a:b", (None, "/a:b")),
        ("a", (None, "a")),
        ("-", (None, "-")),
    ],
)
def test_places(text: str, place: tuple[str | None, str]) -> None:
    assert _place(text) == place


def test_a_place_in_a_sandbox_begins_with_a_slash() -> None:
    with pytest.raises(click.UsageError, match="begins with a slash"):
        _place("sb_1:a")


def test_variables() -> None:
    assert arguments.variables(["A=b=c", "D="]) == {"A": "b=c", "D": ""}
    for wrong in ("A", "=b"):
        with pytest.raises(click.BadParameter):
            arguments.variables([wrong])


def test_json_has_what_this_version_does_not_know() -> None:
    with cutting(lambda _: document([SANDBOX])) as server:
        done = CliRunner().invoke(cli, ["ps", "--json"], env=access(server.url), catch_exceptions=False)
    assert json.loads(done.stdout) == [SANDBOX]


def test_what_a_sandbox_names_does_not_steer_the_terminal() -> None:
    hostile = {**SANDBOX, "templateId": "a\x1b[2Jb\n"}
    with cutting(lambda _: document([hostile])) as server:
        done = CliRunner().invoke(cli, ["ps"], env=access(server.url), catch_exceptions=False)
    assert "\x1b" not in done.stdout
    assert len(done.stdout.splitlines()) == 2


def test_the_daemons_words_and_the_commands_remedy() -> None:
    gone = problem(404, "sandbox_not_found", "there is none")
    with cutting(lambda _: gone) as server, pytest.raises(HostProblem) as told:
        CliRunner().invoke(cli, ["kill", "sb_1"], env=access(server.url), catch_exceptions=False)
    assert str(told.value) == "there is none (HTTP 404)\n  remedy: nsbox ps --all"


def test_completion_is_silent_where_nobody_answers() -> None:
    def reply(_: Seen) -> bytes:
        return answer(b"?", 500)

    with cutting(reply) as server:
        for url in (server.url, "http://127.0.0.1:1", "rubbish"):
            env = {"_NSBOX_COMPLETE": "bash_complete", "COMP_WORDS": "nsbox kill ", "COMP_CWORD": "2"}
            done = CliRunner().invoke(cli, [], env={**env, **access(url)}, prog_name="nsbox")
            assert (done.stdout.strip(), done.exit_code) == ("", 0)
