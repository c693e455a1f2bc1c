from __future__ import annotations

from click.testing import CliRunner

from nsbox.cli.demo import Step, curl_line, demo
from nsbox.model.errors import HostProblem


def test_shows_every_step_and_ends_the_daemon(fake_serve):
    serve = fake_serve("good")
    result = CliRunner().invoke(demo)
    assert result.exit_code == 0, result.output
    assert [line.split(" ")[0] for line in serve.lines] == [
        "start", "POST", "POST", "PUT", "POST", "GET", "GET", "DELETE", "signal",
    ]  # fmt: skip
    assert serve.lines[-1] == "signal 15"
    assert result.output.count("curl ") == 7
    assert result.output.count(" ms\n") == 7
    assert "As expected".lower() in result.output.lower()


def test_a_wrong_answer_fails_and_leaves_no_sandbox(fake_serve):
    serve = fake_serve("wrong")
    result = CliRunner().invoke(demo)
    assert isinstance(result.exception, HostProblem)
    assert "Run a command" in str(result.exception)
    assert serve.lines[-2:] == ["DELETE /api/v1/sandboxes/sb_fake", "signal 15"]


def test_an_error_is_told_in_the_daemons_words(fake_serve):
    fake_serve("broken")
    result = CliRunner().invoke(demo)
    assert "no answer; make another (HTTP 504)" in str(result.exception)


def test_the_curl_line_can_be_typed_and_hides_the_key():
    step = Step("t", "PUT", "/files", {"content": "it's"}, {"path": "/a b"}, bool)
    line = curl_line("http://h:1/api/v1", step)
    assert line == (
        "curl -X PUT 'http://h:1/api/v1/files?path=/a+b' -H \"Authorization: Bearer $KEY\""
        " -H 'Content-Type: application/json' -d '{\"content\": \"it'\"'\"'s\"}'"
    )
