from __future__ import annotations

import os

import pytest

from nsbox.kernel import journal


@pytest.fixture
def stream():
    reader, writer = os.pipe()
    found = os.fstat(writer)
    yield writer, f"{found.st_dev}:{found.st_ino}"
    os.close(reader)
    os.close(writer)


def test_only_the_stream_that_systemd_named_is_the_journal(stream):
    writer, name = stream
    assert journal.is_journal({journal.VARIABLE: name}, writer)
    assert journal.prefix(journal.WARNING, {journal.VARIABLE: name}, writer) == "<4>"
    assert not journal.is_journal({}, writer)
    assert not journal.is_journal({journal.VARIABLE: ""}, writer)
    assert not journal.is_journal({journal.VARIABLE: "1:2"}, writer)
    assert journal.prefix(journal.ERROR, {}, writer) == ""


def test_a_closed_descriptor_is_no_journal():
    assert not journal.is_journal({journal.VARIABLE: "1:2"}, 987_654)


def test_every_line_has_the_priority(monkeypatch, capsys):
    monkeypatch.setattr(journal, "prefix", lambda priority: f"<{priority}>")
    journal.say(journal.ERROR, "one\ntwo")
    assert capsys.readouterr().err == "<3>one\n<3>two\n"


def test_elsewhere_lines_are_plain(capsys, monkeypatch):
    monkeypatch.delenv(journal.VARIABLE, raising=False)
    journal.say(journal.INFO, "text")
    assert capsys.readouterr().err == "text\n"
