from __future__ import annotations

import re

import msgspec
import pytest

from nsbox.keeper import layout
from nsbox.model.sandbox import Limits, Template, new_command_id, new_sandbox_id
from nsbox.wire.messages import Create


def test_ids_are_dns_labels_and_unguessable() -> None:
    made = {new_sandbox_id() for _ in range(1000)}
    assert len(made) == 1000
    for one in made:
        assert re.fullmatch(r"sb_[a-z2-7]{32}", one)  # 160 bits
        assert len(one) <= 63


def test_keeper_takes_them_for_names() -> None:
    assert layout.is_order(Create(new_sandbox_id(), ("default-0a",), "h", 1, 1, 1, 1, ""))


def test_command_ids() -> None:
    assert len({new_command_id() for _ in range(1000)}) == 1000
    assert re.fullmatch(r"cmd_[0-9a-f]{20}", new_command_id())


def test_records_cannot_be_changed() -> None:
    limits = Limits(vcpus=1, memory_mb=1, storage_mb=1, pids=1)
    with pytest.raises(AttributeError):
        limits.vcpus = 2  # type: ignore[misc]


def test_defaults_are_not_shared() -> None:
    one, two = Template(name="a", layers=()), Template(name="b", layers=())
    one.env["X"] = "1"
    assert two.env == {}
    assert msgspec.json.decode(msgspec.json.encode(one), type=Template) == one
