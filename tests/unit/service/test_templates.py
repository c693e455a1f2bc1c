from __future__ import annotations

import pytest

from nsbox.model.errors import Code, Problem
from nsbox.model.sandbox import Template
from nsbox.service.templates import Templates


@pytest.fixture
def templates() -> Templates:
    made = Templates()
    for name in ("default", "python:3.12-slim"):
        made.add(Template(name=name, layers=("layer",)))
    return made


@pytest.mark.parametrize(
    ("template_id", "image", "name"),
    [
        (None, None, "default"),
        ("default", None, "default"),
        (None, "default", "default"),
        ("python:3.12-slim", None, "python:3.12-slim"),
        (None, "python:3.12-slim", "python:3.12-slim"),
        ("python:3.12-slim", "python:3.12-slim", "python:3.12-slim"),
    ],
)
def test_what_was_asked_for(
    templates: Templates, template_id: str | None, image: str | None, name: str
) -> None:
    assert templates.resolve(template_id, image) == name


@pytest.mark.parametrize(
    ("template_id", "image", "code", "field"),
    [
        ("gone", None, Code.TEMPLATE_NOT_AVAILABLE, "templateId"),
        (None, "gone", Code.IMAGE_NOT_AVAILABLE, "image"),
        ("gone", "gone", Code.IMAGE_NOT_AVAILABLE, "image"),
        ("default", "python:3.12-slim", Code.INVALID_FIELD, "image"),
        (None, "", Code.IMAGE_NOT_AVAILABLE, "image"),
    ],
)
def test_what_is_not_there(
    templates: Templates, template_id: str | None, image: str | None, code: Code, field: str
) -> None:
    with pytest.raises(Problem) as caught:
        templates.resolve(template_id, image)
    assert (caught.value.code, caught.value.field) == (code, field)
    if code is not Code.INVALID_FIELD:
        assert caught.value.facts["available"] == ["default", "python:3.12-slim"]
        assert "default, python:3.12-slim" in caught.value.detail
        assert caught.value.remedy


def test_a_giant_name_is_not_given_back_whole(templates: Templates) -> None:
    with pytest.raises(Problem) as caught:
        templates.get("x" * 100_000)
    assert len(caught.value.detail) < 500


def test_none_at_all() -> None:
    with pytest.raises(Problem, match="there are: none"):
        Templates().resolve(None, None)


def test_the_default_is_a_setting() -> None:
    made = Templates("other")
    made.add(Template(name="default", layers=("d",)))
    made.add(Template(name="other", layers=("o",)))
    assert made.resolve(None, None) == "other"
    assert made.resolve("default", None) == "default"
