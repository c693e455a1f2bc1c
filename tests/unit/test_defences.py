"""``scripts/defences`` takes pieces of text out of the product: that they are there, and the tests too."""

from __future__ import annotations

import os
import re

import pytest

from tests.security.defences import DEFENCES, Defence

_TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def _read(name: str) -> str:
    with open(os.path.join(_TOP, name), encoding="utf-8") as file:
        return file.read()


@pytest.mark.parametrize("defence", DEFENCES, ids=lambda one: one.name)
def test_a_defence_is_where_it_is_said_to_be(defence: Defence) -> None:
    assert _read(defence.file).count(defence.text) == 1
    assert defence.without not in ("", defence.text) or defence.text.startswith("nft.rule")
    for test in defence.tests:
        file, _, name = test.partition("::")
        assert re.search(
            rf"^(?:async )?def {re.escape(name.partition('[')[0])}\(", _read(file), re.MULTILINE
        ), test
