from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.api import schema
from nsbox.model.errors import Code, Problem
from nsbox.model.sandbox import Encoding
from nsbox.settings import Settings

SETTINGS = Settings(state_dir="/x")
CREATE = schema.Reader(schema.CreateSandbox)
RUN = schema.Reader(schema.RunCommand)
WRITE = schema.Reader(schema.WriteFile)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=10,
)
members = st.sampled_from(
    [
        "vcpus",
        "memoryMb",
        "command",
        "env",
        "envVars",
        "cwd",
        "user",
        "stdin",
        "stdinBase64",
        "timeoutMs",
        "encoding",
        "content",
        "mode",
        "image",
    ]
)


def read_all(body: bytes) -> list[Problem]:
    """Read the body as every kind there is; anything but a ``Problem`` escapes."""
    found = []
    for check in (
        lambda: CREATE.read(body).spec(SETTINGS, "t"),
        lambda: CREATE.read(body).check_references(),
        lambda: RUN.read(body).spec(SETTINGS),
        lambda: WRITE.read(body).data(100),
        lambda: WRITE.read(body).permissions(),
    ):
        try:
            check()
        except Problem as problem:
            found.append(problem)
    return found


@given(st.binary())
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    read_all(body)


@given(json_values | st.dictionaries(members, json_values))
def test_any_json_is_read_or_refused(value: Any) -> None:
    read_all(json.dumps(value).encode())


def refused(reader: schema.Reader[Any], body: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        value = reader.read(body if isinstance(body, bytes) else json.dumps(body).encode())
        if isinstance(value, schema.CreateSandbox):
            value.check_references()
            value.spec(SETTINGS, "t")
        elif isinstance(value, schema.RunCommand):
            value.spec(SETTINGS)
        else:
            value.data(10)
            value.permissions()
    return caught.value


def test_no_body_is_an_empty_object() -> None:
    spec = CREATE.read(b"").spec(SETTINGS, "default")
    assert (spec.limits.vcpus, spec.limits.memory_mb, spec.limits.storage_mb) == (1, 512, 1024)
    assert (spec.limits.pids, spec.timeout_ms, spec.env) == (512, 1_800_000, {})
    nulls = json.dumps(dict.fromkeys(["vcpus", "memoryMb", "image", "envVars", "timeoutMs"])).encode()
    assert CREATE.read(nulls).spec(SETTINGS, "default") == spec


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{}}",
        b"\xef\xbb\xbf{}",
        b'{"vcpus": NaN}',
        b'{"vcpus": Infinity}',
        b'{"vcpus": -Infinity}',
        b'{"vcpus": 01}',
        b"{'vcpus': 1}",
        b'{"vcpus": 1,}',
        b'{"vcpus": 1, "vcpus": 1}',
        b'{"vcpus": 1, "\\u0076cpus": 1}',
        b'{"envVars": {"A": "1", "A": "2"}}',
        b'{"image": "\\ud800"}',
        b'{"image": "\\ude00\\ud83d"}',
        b'{"image": "\xff"}',
        b'{"image": "\xed\xa0\x80"}',
        b'{"image": "a\0"}',
        b'{"image": "\n"}',
        "{}".encode("utf-16"),
        b"\0",
    ],
)
def test_unreadable_json(body: bytes) -> None:
    assert refused(CREATE, body).code is Code.INVALID_JSON


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], None),
        ("x", None),
        (None, None),
        ({"vcpus": 0}, "vcpus"),
        ({"vcpus": 5}, "vcpus"),
        ({"vcpus": True}, "vcpus"),
        ({"vcpus": "1"}, "vcpus"),
        ({"vcpus": 1.5}, "vcpus"),
        ({"vcpus": 10**30}, "vcpus"),
        ({"vcpus": -(10**30)}, "vcpus"),
        ({"memoryMb": 511}, "memoryMb"),
        ({"memory_mb": 512}, "memory_mb"),
        ({"storageMb": 10**6}, "storageMb"),
        ({"timeoutMs": 999}, "timeoutMs"),
        ({"image": ""}, "image"),
        ({"image": "a\u0000b"}, "image"),
        ({"image": "a" * 513}, "image"),
        ({"templateId": "a\nb"}, "templateId"),
        ({"envVars": []}, "envVars"),
        ({"envVars": {"A": 1}}, "envVars"),
        ({"envVars": {"": "x"}}, "envVars."),
        ({"envVars": {"A=B": "x"}}, "envVars.A=B"),
        ({"envVars": {"A": "x\0"}}, "envVars.A"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_wrong_values_name_their_field(body: Any, field: str | None) -> None:
    problem = refused(CREATE, body)
    assert (problem.code, problem.field) == (Code.INVALID_FIELD, field)


def test_bounds_are_told_and_come_from_the_settings() -> None:
    assert refused(CREATE, {"vcpus": 9}).facts == {"minimum": 1, "maximum": 4}


@pytest.mark.parametrize("nest", [b'{"vcpus":', b"[", b'{"envVars":{"A":'])
def test_deep_nesting(nest: bytes) -> None:
    assert refused(CREATE, nest * 200_000).code in (Code.INVALID_FIELD, Code.INVALID_JSON)


def test_a_huge_number() -> None:
    assert refused(CREATE, b'{"vcpus": ' + b"9" * 1_000_000 + b"}").field == "vcpus"


def test_a_secret_value_is_not_quoted() -> None:
    assert "hunter2" not in refused(CREATE, {"envVars": {"A": "hunter2\0"}}).detail


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "command"),
        ({"command": ""}, "command"),
        ({"command": " \n\t"}, "command"),
        ({"command": "a\0b"}, "command"),
        ({"command": 7}, "command"),
        ({"command": []}, "command"),
        ({"command": [""]}, "command[0]"),
        ({"command": ["a", 1]}, "command[1]"),
        ({"command": ["a", "b\0"]}, "command[1]"),
        ({"command": ["a"] * 4097}, "command"),
        ({"command": "a", "cwd": "tmp"}, "cwd"),
        ({"command": "a", "cwd": "/a\0"}, "cwd"),
        ({"command": "a", "user": ""}, "user"),
        ({"command": "a", "user": "-rf"}, "user"),
        ({"command": "a", "user": "a:b:c"}, "user"),
        ({"command": "a", "user": "root\n"}, "user"),
        ({"command": "a", "user": "65536"}, "user"),
        ({"command": "a", "user": "0:4294967295"}, "user"),
        ({"command": "a", "timeoutMs": 0}, "timeoutMs"),
        ({"command": "a", "encoding": "latin1"}, "encoding"),
        ({"command": "a", "stdin": "", "stdinBase64": ""}, "stdinBase64"),
        ({"command": "a", "stdinBase64": "a"}, "stdinBase64"),
        ({"command": "a", "stdinBase64": "YQ==\n"}, "stdinBase64"),
        ({"command": "a", "stdinBase64": "é"}, "stdinBase64"),
        ({"command": "a", "env": {"A": None}}, "env"),
    ],
)
def test_wrong_commands(body: Any, field: str) -> None:
    problem = refused(RUN, body)
    assert (problem.code, problem.field) == (Code.INVALID_FIELD, field)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"command": "é" * 65_536}, "command"),
        ({"command": ["a", "b" * 131_072]}, "command[1]"),
        ({"command": ["b" * 100_000] * 3}, "command"),
        ({"command": ["b" * 100_000] * 2, "env": {"A": "x" * 65_000}}, "command"),
        ({"command": "a", "env": {"A": "x" * 65_536}}, "env"),
    ],
)
def test_commands_that_are_too_long(body: Any, field: str) -> None:
    problem = refused(RUN, body)
    assert (problem.code, problem.field) == (Code.BODY_TOO_LARGE, field)
    assert "file" in str(problem.remedy)


def run(**body: Any) -> Any:
    return RUN.read(json.dumps(body).encode()).spec(SETTINGS)


def test_commands() -> None:
    spec = run(command="b" * 131_071)
    assert (spec.argv, spec.timeout_ms, spec.encoding) == ((), 30_000, Encoding.UTF8)
    spec = run(command=["a", ""], cwd="/tmp", env={"A": ""}, user="www-data:33", stdin="é", encoding="base64")
    assert (spec.argv, spec.command, spec.stdin) == (("a", ""), ["a", ""], "é".encode())
    assert (spec.user, spec.encoding) == ("www-data:33", Encoding.BASE64)
    assert run(command="a", stdinBase64=base64.b64encode(b"\0\xff").decode()).stdin == b"\0\xff"


def test_file_bodies() -> None:
    assert WRITE.read(b'{"content": "\xc3\xa9", "mode": "0600"}').permissions() == 0o600
    assert WRITE.read(b'{"content": "AP8=", "encoding": "base64"}').data(10) == b"\0\xff"
    assert refused(WRITE, {"content": "x" * 11}).code is Code.BODY_TOO_LARGE
    assert refused(WRITE, {"content": "*", "encoding": "base64"}).field == "content"
    assert refused(WRITE, {"content": "x", "mode": "9"}).field == "mode"
    assert refused(WRITE, {"mode": "0644"}).field == "content"
