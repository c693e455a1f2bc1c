"""docs/settings.md and nsbox/settings.py say the same: nobody finds a setting that is not documented."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

import msgspec
import pytest

from nsbox.settings import ENV_PREFIX, Bound, Settings

_PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
_ROW = re.compile(r"^\| `([a-z0-9_]+)` \| `([A-Z0-9_]+)` \| (\S+) \| (.+?) \| (.+) \|$", re.MULTILINE)
_FIELDS = {field.name: field for field in msgspec.structs.fields(Settings)}


def rows() -> dict[str, tuple[str, str, str]]:
    """Environment name, default and allowed values, by the setting's name."""
    return {row[0]: (row[1], row[2], row[3]) for row in _ROW.findall(_PAGE.read_text())}


def as_written(default: object) -> str:
    """A default as the table shows it; a bound as the environment takes it."""
    if isinstance(default, Bound):
        return f"`{default.low},{default.high},{default.default}`"
    if isinstance(default, tuple):
        default = ",".join(default)
    if isinstance(default, bool):
        default = str(default).lower()
    text = default.value if isinstance(default, StrEnum) else str(default)
    return f"`{text}`" if text else "empty"


def test_every_setting_has_a_row_and_every_row_is_a_setting() -> None:
    names = [match[0] for match in _ROW.findall(_PAGE.read_text())]
    assert names == list(_FIELDS)


@pytest.mark.parametrize("name", _FIELDS)
def test_name_and_default_are_those_of_the_code(name: str) -> None:
    variable, default, _ = rows()[name]
    assert variable == ENV_PREFIX + name.upper()
    value = getattr(Settings(), name)
    assert default == as_written("" if value in (None, {}) else value)  # 0 is a value, an empty table none


@pytest.mark.parametrize("name", _FIELDS)
def test_allowed_values_are_those_of_the_code(name: str) -> None:
    """Each kind of value at the ends of what the table allows is taken, and one step outside is refused."""
    allowed = rows()[name][2]
    numbers = re.fullmatch(r"(\d+) (?:to (\d+)|or more)", allowed)
    if numbers is None:
        default = _FIELDS[name].default
        assert isinstance(default, bool) or not isinstance(default, int), (
            "a number's row must tell its bounds"
        )
        return
    low = int(numbers[1])
    assert getattr(convert(name, low), name) == low
    with pytest.raises(msgspec.ValidationError):
        convert(name, low - 1)
    if numbers[2] is not None:
        high = int(numbers[2])
        assert getattr(convert(name, high), name) == high
        with pytest.raises(msgspec.ValidationError):
            convert(name, high + 1)


def convert(name: str, value: int) -> Settings:
    return msgspec.convert({name: value}, Settings)
