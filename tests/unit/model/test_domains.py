"""Names and patterns of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.model import domains

_LABELS = st.lists(st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("given_", "normal"),
    [
        ("Example.COM.", "example.com"),
        ("*.example.com", "*.example.com"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("localhost", "localhost"),
        ("*", None),
        ("", None),
        (".", None),
        ("a..b", None),
        ("*.*.example.com", None),
        ("ex*.com", None),
        ("-a.com", None),
        ("a b.com", None),
        ("1.2.3.4", None),
        ("10.0.0.0/33", None),
        ("bücher.example", None),
        ("a" * 64 + ".com", None),
        (".".join(["a" * 60] * 5), None),
        ("example.com\n", None),
    ],
)
def test_normal(given_: str, normal: str | None) -> None:
    assert domains.normal(given_) == normal


@given(_LABELS, _LABELS)
def test_a_star_means_all_below_and_not_itself(above: list[str], below: list[str]) -> None:
    name = ".".join(above)
    assert domains.matches([f"*.{name}"], ".".join([*below, name]))
    assert not domains.matches([f"*.{name}"], name)
    assert domains.matches([name], name)


@given(_LABELS)
def test_a_name_that_merely_ends_alike_is_another(labels: list[str]) -> None:
    name = ".".join(labels)
    assert not domains.matches([name, f"*.{name}"], f"evil{name}")
    assert not domains.matches([name, f"*.{name}"], f"{name}.evil.example")
