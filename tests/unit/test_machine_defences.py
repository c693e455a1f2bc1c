"""What ``test-host --defence-off`` takes out is there, and so are the tests that must notice."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import nsbox
from tests.host.defences import DEFENCES, Defence

PACKAGE = Path(nsbox.__file__).parent
TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("defence", DEFENCES, ids=lambda one: one.name)
def test_it_can_be_taken_out(defence: Defence) -> None:
    text = (PACKAGE / defence.file).read_text()
    assert text.count(defence.old) == 1
    without = ast.parse(text.replace(defence.old, defence.new))
    assert ast.dump(without) != ast.dump(ast.parse(text))


@pytest.mark.parametrize("defence", DEFENCES, ids=lambda one: one.name)
def test_its_tests_are_there(defence: Defence) -> None:
    assert defence.tests
    for one in defence.tests:
        path, _, name = one.partition("::")
        assert not name or f"\ndef {name}(" in (TESTS.parent / path).read_text()


def test_names_are_distinct() -> None:
    assert len({one.name for one in DEFENCES}) == len(DEFENCES)
