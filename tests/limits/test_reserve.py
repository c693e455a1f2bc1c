"""The free-disk reserve, on a daemon that keeps more than the disk has."""

from __future__ import annotations

from tests.conftest import DaemonFactory


def test_a_full_host_takes_nothing_new_and_says_when_to_ask_again(daemon_factory: DaemonFactory) -> None:
    daemon = daemon_factory(settings={"reserve_mb": str(1 << 40)})
    with daemon.api() as api:
        answer = api.request("POST", "/sandboxes", {})
        assert (answer.status, answer.code) == (503, "host_full"), answer
        assert answer.headers["retry-after"] == "10"
        assert api.request("GET", "/sandboxes").json == []
