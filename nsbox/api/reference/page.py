"""The OpenAPI document as a page: HTML without script or style of its own, so that it can be read with both
refused. Everything is escaped; nothing of a request is in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from html import escape
from typing import Any

JSON = dict[str, Any]
_CODE = re.compile(r"`([^`]+)`")
_REFERENCE = "#/components/schemas/"
#: What is as large as this is bounded by nothing that a reader cares about.
_NO_BOUND = 10**15


def render(document: JSON) -> str:
    """The whole page."""
    found = [(path, method, one) for path, item in document["paths"].items() for method, one in item.items()]
    tags = [tag["name"] for tag in document["tags"]]
    title = f"{document['info']['title']} {document['info']['version']}: the API"
    body = "".join(_section(tag, [one for one in found if one[2]["tags"][0] == tag]) for tag in tags)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>"
        '<link rel="stylesheet" href="/docs/page.css"><script src="/docs/page.js" defer></script></head>'
        '<body><a class="skip" href="#main">To the content</a>'
        f"<header><h1>{escape(title)}</h1>"
        '<p><a href="/openapi.json">openapi.json</a></p></header>'
        f'<div class="columns"><nav aria-label="Operations">{_navigation(tags, found)}</nav>'
        f'<main id="main" tabindex="-1">{_prose(document["info"]["description"])}{body}'
        f"{_schemas(document['components']['schemas'])}</main></div></body></html>\n"
    )


def _navigation(tags: list[str], found: list[tuple[str, str, JSON]]) -> str:
    filter_ = (
        '<p class="filter" hidden><label for="filter">Filter</label>'
        '<input id="filter" type="search" autocomplete="off" spellcheck="false" placeholder="Press /"></p>'
        '<p id="found" role="status" class="filter" hidden></p>'
    )
    lists = []
    for tag in tags:
        links = "".join(
            f'<li data-for="{escape(one["operationId"])}"><a href="#{escape(one["operationId"])}">'
            f"{escape(one['summary'])}</a></li>"
            for _, _, one in found
            if one["tags"][0] == tag
        )
        lists.append(f"<h2>{escape(tag)}</h2><ul>{links}</ul>")
    return f'{filter_}{"".join(lists)}<h2><a href="#types">Types</a></h2>'


def _section(tag: str, found: list[tuple[str, str, JSON]]) -> str:
    operations = "".join(_operation(path, method, one) for path, method, one in found)
    return f'<section class="tag"><h2>{escape(tag)}</h2>{operations}</section>'


def _operation(path: str, method: str, one: JSON) -> str:
    parts = [_prose(one.get("description", ""))]
    if not one["security"]:
        parts.append("<p>No key is needed.</p>")
    parts.append(_parameters(one.get("parameters", [])))
    if "requestBody" in one:
        need = "required" if one["requestBody"]["required"] else "optional"
        parts.append(f"<h4>Body, {need}</h4>{_contents(one['requestBody']['content'])}")
    answers = one["responses"].items()
    bad = {status: told for status, told in answers if _is_problem(told) or status == "431"}
    good = {status: told for status, told in answers if status not in bad}
    for status, told in good.items():
        parts.append(f"<h4>{status}: {_inline(told['description'])}</h4>")
        parts.append(_answer_headers(told.get("headers", {})) + _contents(told.get("content", {})))
    if bad:
        rows = "".join(
            f"<tr><th scope=row>{status}</th><td>{_inline(told['description'])}</td></tr>"
            for status, told in sorted(bad.items())
        )
        parts.append(f"<h4>Errors</h4>{_table(('status', 'code and meaning'), rows)}")
    words = escape(f"{method} {path} {one['operationId']} {one['summary']}".lower())
    return (
        f'<details class="operation" id="{escape(one["operationId"])}" data-words="{words}"><summary>'
        f'<h3><span class="method {method}">{method.upper()}</span> <code>{_path(path)}</code> '
        f'<span class="what">{escape(one["summary"])}</span></h3></summary>{"".join(parts)}</details>'
    )


def _is_problem(told: JSON) -> bool:
    return "application/problem+json" in told.get("content", {})


def _path(path: str) -> str:
    """A path may break behind each slash."""
    return escape(path).replace("/", "/<wbr>")


def _parameters(found: list[JSON]) -> str:
    if not found:
        return ""
    rows = "".join(
        f"<tr><th scope=row><code>{escape(one['name'])}</code>{_star(one.get('required', False))}</th>"
        f"<td>{escape(one['in'])}</td><td>{_type(one['schema'])}</td>"
        f"<td>{_inline(one.get('description', ''))}</td></tr>"
        for one in found
    )
    return f"<h4>Parameters</h4>{_table(('name', 'in', 'type', ''), rows)}"


def _answer_headers(headers: JSON) -> str:
    return "".join(
        f"<p><code>{escape(name)}</code>: {_inline(told['description'])}</p>"
        for name, told in headers.items()
    )


def _contents(contents: JSON) -> str:
    return "".join(_content(kind, told) for kind, told in contents.items())


def _content(kind: str, told: JSON) -> str:
    parts = [f"<p><code>{escape(kind)}</code>"]
    if kind == "application/json" and "schema" in told:
        parts.append(f": {_type(told['schema'])}")
    parts.append("</p>")
    if events := told.get("x-nsbox-events"):
        rows = "".join(
            f"<tr><th scope=row><code>{escape(name)}</code></th><td>{_type(schema)}</td></tr>"
            for name, schema in events.items()
        )
        parts.append(_table(("event", "data"), rows))
    if "example" in told:
        parts.append(_example(told["example"]))
    return "".join(parts)


def _example(value: Any) -> str:
    """Focusable, since it may be wider than the page and a keyboard must be able to scroll it."""
    return f'<pre tabindex="0"><code>{escape(json.dumps(value, indent=2, ensure_ascii=False))}</code></pre>'


def _schemas(schemas: JSON) -> str:
    told = "".join(_schema(name, one) for name, one in schemas.items())
    return f'<section class="tag" id="types"><h2>Types</h2>{told}</section>'


def _schema(name: str, one: JSON) -> str:
    text = _prose(one.get("description", ""))
    if "properties" in one:
        needed = one.get("required", [])
        rows = "".join(
            f"<tr><th scope=row><code>{escape(member)}</code>{_star(member in needed)}</th>"
            f"<td>{_type(told)}</td><td>{_inline(_description(told))}</td></tr>"
            for member, told in one["properties"].items()
        )
        text += _table(("member", "type", ""), rows) if rows else "<p>No members.</p>"
    else:
        text += f"<p>{_type(one)}</p>"
    label = f"<h3><code>{escape(name)}</code></h3>"
    return f'<details class="type" id="type-{escape(name)}"><summary>{label}</summary>{text}</details>'


def _star(needed: bool) -> str:
    return ' <abbr title="required">*</abbr>' if needed else ""


def _description(told: JSON) -> str:
    inner = next((one["description"] for one in told.get("anyOf", ()) if "description" in one), "")
    return str(told.get("description", inner))


def _type(told: JSON) -> str:
    """A schema in a few words."""
    if isinstance(reference := told.get("$ref"), str):
        name = escape(reference.removeprefix(_REFERENCE))
        return f'<a href="#type-{name}">{name}</a>'
    if "anyOf" in told:
        return " or ".join(_type(one) for one in told["anyOf"]) + _default(told)
    if "enum" in told:
        return _words(told["enum"]) + _default(told)
    if "const" in told:
        return _words([told["const"]])
    if told.get("type") == "array":
        return f"array of {_type(told.get('items', {}))}"
    if told.get("type") == "object":
        more = told.get("additionalProperties")
        return f"object of {_type(more)}" if isinstance(more, dict) and more else "object"
    return escape(str(told.get("type", "any"))) + _bounds(told) + _default(told)


def _words(words: Iterable[Any]) -> str:
    return ", ".join(f"<code>{escape(json.dumps(word))}</code>" for word in words)


def _bounds(told: JSON) -> str:
    if told.get("maximum", 0) >= _NO_BOUND:
        return f", from {told['minimum']} on"
    if "minimum" in told and "maximum" in told:
        return f", {told['minimum']} to {told['maximum']}"
    if "maxLength" in told:
        return f", up to {told['maxLength']} characters"
    return f", {escape(str(told['format']))}" if "format" in told else ""


def _default(told: JSON) -> str:
    value = told.get("default", (told.get("examples") or [None])[0])
    return "" if value is None else f" (<code>{escape(json.dumps(value))}</code>)"


def _table(heads: tuple[str, ...], rows: str) -> str:
    head = "".join(f"<th scope=col>{escape(one)}</th>" for one in heads)
    return (
        f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _prose(text: str) -> str:
    return "".join(f"<p>{_inline(part)}</p>" for part in text.split("\n\n") if part.strip())


def _inline(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(text))
