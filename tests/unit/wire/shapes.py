"""Messages of every kind, made from their type hints, so that a new kind is tested the day it is added."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

from hypothesis import strategies as st

from nsbox.wire.messages import Message

KINDS: tuple[type, ...] = get_args(Message)
EVERYTHING = frozenset(KINDS)

#: Anything a str can hold, lone surrogates and control characters among it.
texts = st.text(st.characters(codec=None, exclude_categories=()), max_size=40)
numbers = st.integers(-(1 << 63), (1 << 63) - 1)
VALUES: dict[object, st.SearchStrategy[Any]] = {
    int: numbers,
    str: texts,
    tuple[str, ...]: st.lists(texts, max_size=5).map(tuple),
    bytes: st.binary(max_size=200),
}


def messages(kind: type) -> st.SearchStrategy[Any]:
    """Messages of one kind."""
    fields = [VALUES[hint] for hint in get_type_hints(kind).values()]
    return st.builds(kind, *fields) if fields else st.just(kind())


any_message = st.sampled_from(KINDS).flatmap(messages)


def example(kind: type) -> Any:
    """One message of a kind."""
    plain: dict[object, object] = {int: 7, str: "x", tuple[str, ...]: ("a", "b"), bytes: b"data"}
    return kind(*(plain[hint] for hint in get_type_hints(kind).values()))
