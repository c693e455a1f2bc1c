from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.keeper import layout
from nsbox.keeper.config import Config
from nsbox.wire.messages import Create


@given(st.text(max_size=70), st.lists(st.text(max_size=140), max_size=3))
def test_whatever_is_taken_for_a_name_is_only_a_name(sandbox_id: str, layers: list[str]) -> None:
    if layout.is_order(Create(sandbox_id, tuple(layers), "h", 1, 1, 1, 1, "")):
        assert layers
        for name in (sandbox_id, *layers):
            assert name.isascii()
            assert not set(name) & set('/:,\\\0\n" =')
            assert name[0] not in ".-_"
            assert 0 < len(name) <= 128
        assert "-" not in sandbox_id  # as names of blanks have


@pytest.mark.parametrize("name", ["default-0a1b", "sha256.abc_d-e", "0"])
def test_names_of_layers(name: str) -> None:
    assert layout.is_order(Create("sb_1", (name,), "h", 1, 1, 1, 1, ""))


def test_a_socket_has_a_short_path() -> None:
    assert layout.sandbox_socket("sb_1") == "run/sb_1.sock"
    assert len(layout.sandbox_socket("a" * 64)) < 108


def test_what_keeper_is_told_arrives() -> None:
    config = Config("/state \"'\n", 4, "", ("cpu", "pids"), 5, 6)
    assert Config.from_json(config.to_json()) == config
