"""The OpenAPI 3.1 document, made from the registry of operations, the types of bodies and answers, the
declared parameters and the table of errors. Bounds that are settings are those of this daemon."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

import msgspec

import nsbox
from nsbox.api import answers, schema
from nsbox.api.operations import OPERATIONS, examples
from nsbox.api.operations.declare import Answer, Content, Operation
from nsbox.api.parameters import JSON, Parameter
from nsbox.api.problems import MEDIA_TYPE, TABLE
from nsbox.model.errors import Code
from nsbox.settings import Settings

_REFERENCE = "#/components/schemas/"
_PROBLEM = MEDIA_TYPE.decode()
#: Answers' types are called so in the code, where the model's have the plain names.
_SUFFIX = "View"
_DESCRIPTION = """\
Isolated Linux environments on one host. A key goes into the header `Authorization: Bearer KEY`; make one \
with `nsbox keys create NAME`.

Errors are `application/problem+json` (RFC 9457) with a stable `code`. No body is `{}`; unknown and doubled \
members are refused; a member that is `null` counts as absent. Answers may get further members. A method \
that a path does not have answers 405 with `Allow`; without a key every path below `/api/v1` answers 401."""

_PATHS: dict[str, tuple[str, JSON]] = {
    "sandboxId": ("A sandbox of yours.", {"type": "string", "pattern": "^[^/%]+$"}),
    "processId": (
        "The `id` of a command, or the `pid` of one that runs.",
        {"type": "string", "pattern": "^[^/%]+$"},
    ),
    "snapshotId": ("A snapshot of yours.", {"type": "string", "pattern": "^[^/%]+$"}),
    "image": (
        "An image, as it is written, slashes and all.",
        {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._:@/-]*$"},
    ),
    "keyId": ("A key.", {"type": "string", "pattern": "^[^/%]+$"}),
    "userId": ("A user.", {"type": "string", "pattern": "^[^/%]+$"}),
    "port": ("A port.", {"type": "integer", "minimum": 1, "maximum": 65535}),
}
_HEADERS: dict[str, tuple[str, JSON]] = {
    "Nsbox-User": ("For keys with the scope `admin`: the user that the request is for.", {"type": "string"}),
    "Idempotency-Key": (
        "With it the request can be sent again, and is done once.",
        {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]*$"},
    ),
    "Last-Event-ID": (
        "The id of the last event that was seen: go on behind it.",
        {"type": "string", "pattern": "^[0-9]{1,18}$"},
    ),
    "Range": ("One range of bytes, of a raw file.", {"type": "string", "pattern": "^bytes=[0-9]*-[0-9]*$"}),
    "If-Range": ("The `Last-Modified` that the range is of.", {"type": "string"}),
    "If-None-Match": ("The `ETag` that is known.", {"type": "string"}),
}


def document(settings: Settings, operations: Iterable[Operation] = OPERATIONS) -> JSON:
    """The whole document."""
    chosen = tuple(operations)
    types = [type_ for one in chosen for content in _contents(one) for type_ in content.types()]
    schemas, components = msgspec.json.schema_components(
        [*types, answers.ProblemView], ref_template=_REFERENCE + "{name}"
    )
    known = {id(type_): told for type_, told in zip(types, schemas, strict=False)}
    made: JSON = {
        "openapi": "3.1.0",
        "info": {
            "title": "nsbox",
            "version": nsbox.__version__,
            "description": _DESCRIPTION,
            "license": {"name": "GPL-3.0-or-later", "identifier": "GPL-3.0-or-later"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(one.tag for one in chosen)],
        "paths": _paths(chosen, known),
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key."}},
            "schemas": _ordered(components),
        },
    }
    finished: JSON = _finish(made, settings)
    return finished


def _contents(operation: Operation) -> list[Content]:
    return [*operation.body, *(content for answer in operation.answers for content in answer.contents)]


def _paths(operations: tuple[Operation, ...], known: dict[int, JSON]) -> JSON:
    paths: JSON = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, known)
    return paths


def _operation(one: Operation, known: dict[int, JSON]) -> JSON:
    told: JSON = {"operationId": one.name, "tags": [one.tag], "summary": one.summary}
    if one.text:
        told["description"] = one.text
    parameters = [*_path_parameters(one.path), *map(_parameter, one.query), *map(_header, _headers(one))]
    if parameters:
        told["parameters"] = parameters
    if one.body:
        told["requestBody"] = {
            "required": any(_is_required(content) for content in one.body),
            "content": {content.kind: _content(content, known) for content in one.body},
        }
    told["responses"] = {
        **{str(answer.status): _answer(answer, known) for answer in one.answers},
        **_errors(one),
        "431": {"description": "The head of the request is larger than 32 KiB. Nothing more is said."},
    }
    told["security"] = [{"key": []}] if one.key else []
    return {**told, **one.extra}


def _path_parameters(path: str) -> list[JSON]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATHS[name][0],
            "schema": _PATHS[name][1],
        }
        for name in names
    ]


def _parameter(one: Parameter[Any]) -> JSON:
    told = {"name": one.name, "in": "query", "description": one.text, "schema": one.schema()}
    return {**told, "required": True} if one.required else told


def _headers(one: Operation) -> tuple[str, ...]:
    return (*one.headers, "Nsbox-User") if one.key else one.headers


def _header(name: str) -> JSON:
    text, told = _HEADERS[name]
    return {"name": name, "in": "header", "description": text, "schema": told}


def _is_required(content: Content) -> bool:
    """No body at all is ``{}``, so one is needed only where some member is."""
    if content.type is None or not isinstance(content.type, type):
        return False
    return any(field.required for field in msgspec.structs.fields(content.type))


def _content(content: Content, known: dict[int, JSON]) -> JSON:
    told: JSON = {}
    if isinstance(content.type, tuple):
        told["schema"] = {"anyOf": [known[id(type_)] for type_ in content.type]}
    elif content.type is not None:
        told["schema"] = known[id(content.type)]
    elif content.events:
        told["schema"] = _event(list(content.events))
    elif content.kind.startswith("text/"):
        told["schema"] = {"type": "string"}
    if content.events:
        told["x-nsbox-events"] = {name: known[id(type_)] for name, type_ in content.events.items()}
    if content.example is not None:
        told["example"] = content.example
    return told


def _event(names: list[str]) -> JSON:
    """One of the events: OpenAPI 3.1 has no way to speak of a stream of them."""
    return {
        "type": "object",
        "description": "One event; `x-nsbox-events` has the types of their data.",
        "properties": {
            "id": {"type": "string"},
            "event": {"type": "string", "enum": names},
            "data": {"type": "string", "contentMediaType": "application/json"},
        },
        "required": ["event", "data"],
    }


def _answer(answer: Answer, known: dict[int, JSON]) -> JSON:
    told: JSON = {"description": answer.text}
    if answer.headers:
        told["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in answer.headers.items()
        }
    if answer.contents:
        told["content"] = {content.kind: _content(content, known) for content in answer.contents}
    return told


def _errors(one: Operation) -> JSON:
    """By status, from the one table. Where an answer has the same status, that stands first."""
    taken = {answer.status for answer in one.answers}
    codes = sorted(one.codes(), key=lambda code: TABLE[code].status)
    return {
        str(status): _problem(list(group))
        for status, group in groupby(codes, key=lambda code: TABLE[code].status)
        if status not in taken
    }


def _problem(codes: list[Code]) -> JSON:
    titles = "; ".join(f"`{code.value}`: {TABLE[code].title}" for code in codes)
    told = {
        "allOf": [{"$ref": f"{_REFERENCE}ProblemView"}],
        "properties": {"code": {"enum": [code.value for code in codes]}},
    }
    return {"description": titles, "content": {_PROBLEM: {"schema": told}}}


def _ordered(components: dict[str, JSON]) -> JSON:
    """Members in the order in which they are sent, not in that of the alphabet."""
    components["ProblemView"]["examples"] = [examples.PROBLEM]
    for name, told in components.items():
        order = _annotations(getattr(answers, name, None))
        if order and "properties" in told:
            told["properties"] = {member: told["properties"][member] for member in order}
            told["required"] = [member for member in order if member in told["required"]]
        if "enum" in told:
            told["type"] = "string"
    return components


def _annotations(kind: Any) -> list[str]:
    """Of a TypedDict and those it extends, which are its bases no more at run time."""
    return list(getattr(kind, "__annotations__", ()))


def _finish(value: Any, settings: Settings) -> Any:
    """Names as the document has them, bounds as the settings have them."""
    if isinstance(value, list):
        return [_finish(one, settings) for one in value]
    if not isinstance(value, dict):
        return value.replace("``", "`") if isinstance(value, str) else value
    told = {name: _finish(one, settings) for name, one in value.items()}
    if setting := told.pop(schema.SETTING, None):
        bound = getattr(settings, setting)
        told |= {"minimum": bound.low, "maximum": bound.high, "examples": [bound.default]}
    if isinstance(reference := told.get("$ref"), str):
        told["$ref"] = reference.removesuffix(_SUFFIX)
    if isinstance(title := told.get("title"), str):
        told["title"] = title.removesuffix(_SUFFIX)
    if isinstance(schemas := told.get("schemas"), dict):
        told["schemas"] = {name.removesuffix(_SUFFIX): one for name, one in schemas.items()}
    return told
