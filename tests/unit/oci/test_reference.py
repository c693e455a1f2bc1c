from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nsbox.oci.reference import BadReference, Reference, parse

D = "sha256:" + "a1" * 32


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest"),
    [
        ("alpine", "docker.io", "library/alpine", "latest", ""),
        ("alpine:3.20", "docker.io", "library/alpine", "3.20", ""),
        ("python:3.12-slim", "docker.io", "library/python", "3.12-slim", ""),
        ("library/alpine", "docker.io", "library/alpine", "latest", ""),
        ("docker.io/alpine", "docker.io", "library/alpine", "latest", ""),
        ("index.docker.io/alpine", "docker.io", "library/alpine", "latest", ""),
        ("docker.io/library/alpine", "docker.io", "library/alpine", "latest", ""),
        ("ann/tool", "docker.io", "ann/tool", "latest", ""),
        ("ann/tool:1", "docker.io", "ann/tool", "1", ""),
        ("ghcr.io/a/b/c:1", "ghcr.io", "a/b/c", "1", ""),
        ("GHCR.io/a", "ghcr.io", "a", "latest", ""),
        ("localhost/a", "localhost", "a", "latest", ""),
        ("localhost:5000/a", "localhost:5000", "a", "latest", ""),
        ("localhost:5000/a:b", "localhost:5000", "a", "b", ""),
        ("127.0.0.1:5000/a", "127.0.0.1:5000", "a", "latest", ""),
        ("[::1]:5000/a:b", "[::1]:5000", "a", "b", ""),
        ("[fe80::1]/a", "[fe80::1]", "a", "latest", ""),
        ("host:5/a", "host:5", "a", "latest", ""),
        ("Host/a", "Host", "a", "latest", ""),
        ("xn--7o8h.com/a", "xn--7o8h.com", "a", "latest", ""),
        (f"alpine@{D}", "docker.io", "library/alpine", "", D),
        (f"alpine:3@{D}", "docker.io", "library/alpine", "3", D),
        (f"host:5/a:b@{D}", "host:5", "a", "b", D),
        ("a_b/c__d/e---f.g", "docker.io", "a_b/c__d/e---f.g", "latest", ""),
        ("a:" + "t" * 128, "docker.io", "library/a", "t" * 128, ""),
    ],
)
def test_as_docker_reads_them(text: str, registry: str, repository: str, tag: str, digest: str) -> None:
    assert parse(text) == Reference(registry, repository, tag, digest)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        ":5000/a",
        "a:",
        "a:-b",
        "a:.b",
        "a:" + "t" * 129,
        "Alpine",
        "ann/Tool",
        "a b",
        "a\n",
        "a\0",
        "a..b",
        "a___b",
        "a.",
        "_a",
        "-a/b",
        "a@",
        "a@b",
        "a@sha256:" + "a" * 63,
        "a@sha256:" + "A" * 64,
        "a@sha512:" + "a" * 128,
        "a@md5:" + "a" * 32,
        f"a@{D}@{D}",
        "a" * 64,
        "host.tld:0/a",
        "host.tld:65536/a",
        "host.tld:99999999/a",
        "host.tld:/a",
        "host_x.tld/a",
        "-x.tld/a",
        "user@host.tld/a",
        "http://host.tld/a",
        "host.tld/../a",
        "../a",
        "./a",
        "[::1/a",
        "host.tld",
        "a/" * 130 + "a",
        "х/й",  # letters that are not a-z
        "host.tld/a?b",
        "host.tld/a#b",
        "host.tld/%61",
    ],
)
def test_what_is_no_name(text: str) -> None:
    if text == "host.tld":  # Docker takes it for an official image, and so do we
        assert parse(text).repository == "library/host.tld"
        return
    with pytest.raises(BadReference) as caught:
        parse(text)
    assert str(caught.value)


@pytest.mark.parametrize(
    ("text", "familiar"),
    [
        ("docker.io/library/alpine:latest", "alpine:latest"),
        ("docker.io/ann/tool", "ann/tool:latest"),
        ("docker.io/library/a/b", "library/a/b:latest"),
        ("ghcr.io/library/a", "ghcr.io/library/a:latest"),
        (f"alpine@{D}", f"alpine@{D}"),
    ],
)
def test_familiar(text: str, familiar: str) -> None:
    assert parse(text).familiar == familiar


def test_hub_answers_elsewhere() -> None:
    assert parse("alpine").host == "registry-1.docker.io"
    assert parse("localhost:5000/alpine").host == "localhost:5000"


def test_a_digest_wins() -> None:
    assert parse(f"alpine:3@{D}").wanted == D
    assert parse("alpine:3").wanted == "3"


_component = st.from_regex(r"[a-z0-9]{1,6}((\.|_|__|-{1,3})[a-z0-9]{1,6}){0,2}", fullmatch=True)
_registries = st.one_of(
    st.just("docker.io"),
    st.just("localhost"),
    st.from_regex(r"[a-z0-9]{1,8}(\.[a-z]{2,4}){1,2}(:[1-9][0-9]{0,3})?", fullmatch=True),
)
_tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)


@st.composite
def references(draw: st.DrawFn) -> Reference:
    registry = draw(_registries)
    parts = draw(st.lists(_component, min_size=2 if registry == "docker.io" else 1, max_size=4))
    # A first part with a dot or a colon would be taken for a registry.
    parts[0] = parts[0].replace(".", "-")
    if registry == "docker.io" and parts[0] == "localhost":
        parts[0] = "x"
    if registry == "index.docker.io":
        registry = "docker.io"
    tag = draw(st.one_of(st.just(""), _tags))
    digest = draw(st.one_of(st.just(""), st.just(D)))
    return Reference(registry, "/".join(parts), tag or ("" if digest else "latest"), digest)


@given(references())
def test_both_written_forms_lead_back(reference: Reference) -> None:
    assert parse(str(reference)) == reference
    assert parse(reference.familiar) == reference


@given(st.text(max_size=80))
def test_any_text_is_a_name_or_is_refused(text: str) -> None:
    try:
        got = parse(text)
    except BadReference:
        return
    assert parse(str(got)) == got
    # What becomes part of a URL and of a file's name has nothing in it that means anything there.
    for part in (got.registry, got.repository, got.tag):
        assert not set(part) & set("%?#@\\ \n\0")
        assert ".." not in part.split("/")
    assert got.repository == got.repository.lower()


@example("A/0")
@given(st.text(alphabet="aA0.-_/:@[]", max_size=24))
def test_near_misses(text: str) -> None:
    test_any_text_is_a_name_or_is_refused.hypothesis.inner_test(text)  # type: ignore[attr-defined]
