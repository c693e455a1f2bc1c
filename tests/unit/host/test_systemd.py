from __future__ import annotations

import os
import socket

from nsbox.host import heartbeat, systemd


def test_a_word_for_systemd(tmp_path):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        systemd.notify("WATCHDOG=1", {"NOTIFY_SOCKET": path})
        assert listener.recv(100) == b"WATCHDOG=1"


def test_nobody_to_be_told(tmp_path, caplog):
    systemd.notify("READY=1", {})
    assert not caplog.records
    systemd.notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "gone")})
    assert "systemd cannot be told" in caplog.text


def test_a_heartbeat_never_waits():
    reader, writer = os.pipe2(os.O_NONBLOCK)
    for _ in range(70_000):
        heartbeat.send(writer, heartbeat.BEAT)
    heartbeat.send(-1, heartbeat.READY)
    assert set(os.read(reader, 1 << 20)) == set(heartbeat.BEAT)
    os.close(reader)
    os.close(writer)
