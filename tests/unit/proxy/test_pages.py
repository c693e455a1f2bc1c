from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nsbox.proxy import head, pages
from nsbox.proxy.pages import TABLE, Fault

_PAGE = Path(__file__).parents[3] / "docs" / "previews.md"


def test_every_fault_is_documented_with_its_status() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| ([0-9, ]+) \|", _PAGE.read_text(), re.MULTILINE)
    assert {name: int(statuses.split(",")[0]) for name, statuses in rows} == {
        fault.value: row.status for fault, row in TABLE.items()
    }
    assert set(TABLE) == set(Fault)


def asked(fields: str = "", method: str = "GET") -> head.Request:
    return head.request(f"{method} / HTTP/1.1\r\nHost: h\r\n{fields}\r\n".encode())


@pytest.mark.parametrize("fault", Fault)
def test_programs_get_a_problem_document_of_the_announced_length(fault: Fault) -> None:
    top, _, body = pages.answer(fault, asked()).partition(b"\r\n\r\n")
    told = json.loads(body)
    assert (told["code"], told["status"]) == (fault.value, TABLE[fault].status)
    assert f"Content-Length: {len(body)}".encode() in top
    assert b"Connection: close" in top
    assert pages.answer(fault, asked(method="HEAD")) == top + b"\r\n\r\n"


@pytest.mark.parametrize("fault", Fault)
def test_people_get_a_page_that_loads_nothing(fault: Fault) -> None:
    answer = pages.answer(fault, asked("Accept: text/html\r\n"), detail="<script>")
    assert b"&lt;script&gt;" in answer
    assert b"<script>" not in answer
    assert b"default-src 'none'" in answer
    assert (b"http-equiv" in answer) == bool(TABLE[fault].again)


def test_what_could_not_be_read_is_told_as_well() -> None:
    assert pages.answer(Fault.MALFORMED, None, status=431).startswith(b"HTTP/1.1 431 ")
