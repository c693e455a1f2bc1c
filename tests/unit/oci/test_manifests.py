from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.model.image import MAX_LAYERS
from nsbox.oci.layers import Compression
from nsbox.oci.manifests import (
    MAX_DOCUMENT,
    BadImage,
    Descriptor,
    Index,
    Manifest,
    Platform,
    check_manifest,
    choose,
    compression,
    host_platform,
    read_config,
    read_document,
)
from tests.registries.images import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, image, layer

AMD64 = Platform("linux", "amd64")
D = "sha256:" + "a" * 64
IMAGE = image([layer({"a": b"1"})])


def changed(**members: Any) -> bytes:
    document = json.loads(IMAGE.manifest) | members
    return json.dumps({name: value for name, value in document.items() if value is not ...}).encode()


def config(**members: Any) -> bytes:
    base: dict[str, Any] = {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [D]}}
    return json.dumps(base | members).encode()


@pytest.mark.parametrize("kind", [OCI_INDEX, DOCKER_LIST])
def test_a_list(kind: str) -> None:
    text = json.dumps({"mediaType": kind, "manifests": [{"digest": D, "size": 1}]}).encode()
    for announced in (kind, "", f"{kind}; charset=utf-8", kind.upper()):
        assert isinstance(read_document(text, announced), Index)


@pytest.mark.parametrize("kind", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_a_manifest(kind: str) -> None:
    for text in (changed(mediaType=kind), changed(mediaType=...)):
        for announced in (kind, ""):
            assert isinstance(read_document(text, announced), Manifest)


def test_one_digest_is_not_two_images() -> None:
    """CVE-2021-41190: a document that is a list to one tool and a manifest to the next."""
    with pytest.raises(BadImage, match="two"):
        read_document(changed(manifests=[]), OCI_MANIFEST)
    with pytest.raises(BadImage, match="two"):
        read_document(changed(manifests=[], mediaType=...), "")
    with pytest.raises(BadImage, match="says it is"):
        read_document(changed(), OCI_INDEX)
    with pytest.raises(BadImage, match="has not the members"):
        read_document(changed(mediaType=...), OCI_INDEX)
    assert isinstance(read_document(changed(manifests=None), OCI_MANIFEST), Manifest), "null is absent"


@pytest.mark.parametrize(
    ("text", "announced"),
    [
        (b"", ""),
        (b"[]", ""),
        (b"{}", ""),
        (b"\xff", ""),
        (b"[" * 100_000, ""),
        (b" " * (MAX_DOCUMENT + 1), ""),
        (changed(), "text/html"),
        (changed(), "application/octet-stream"),
        (changed(mediaType="application/x"), ""),
        (changed(schemaVersion=1), ""),
        (changed(layers=[{"digest": D}]), ""),
        (changed(layers=[{"digest": D, "size": -1}]), ""),
        (changed(layers=[{"digest": D, "size": 1 << 60}]), ""),
        (changed(layers=[{"digest": D, "size": 1.5}]), ""),
        (changed(layers=[{"digest": "sha256:x", "size": 1}]), ""),
        (changed(layers=[{"digest": "sha512:" + "a" * 128, "size": 1}]), ""),
        (changed(layers=[{"digest": "../../etc/passwd", "size": 1}]), ""),
        (changed(layers={}), ""),
        (changed(config=...), ""),
    ],
)
def test_what_is_no_manifest(text: bytes, announced: str) -> None:
    with pytest.raises(BadImage):
        read_document(text, announced)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (lambda: read_document(data), lambda: read_config(data, 1, AMD64)):
        try:
            read()
        except BadImage:
            pass


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8) | st.just(D),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["config", "layers", "manifests", "digest", "size", "mediaType", "rootfs", "Env"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_json, st.sampled_from(["", OCI_MANIFEST, OCI_INDEX]))
def test_any_json_is_read_or_refused(value: object, announced: str) -> None:
    data = json.dumps(value).encode()
    for read in (lambda: read_document(data, announced), lambda: read_config(data, 1, AMD64)):
        try:
            read()
        except BadImage:
            pass


# ---- platforms


def listed(*platforms: tuple[str, ...] | None) -> Index:
    rows = []
    for number, one in enumerate(platforms):
        rows.append(
            Descriptor(digest=str(number), size=1, platform=Platform(*one) if one is not None else None)
        )
    return Index(tuple(rows))


@pytest.mark.parametrize(
    ("platforms", "wanted", "chosen"),
    [
        ([("linux", "arm64"), ("linux", "amd64")], AMD64, "1"),
        ([("windows", "amd64"), ("linux", "amd64")], AMD64, "1"),
        ([("linux", "amd64", "v3"), ("linux", "amd64")], AMD64, "1"),
        ([("linux", "amd64", "v1"), ("linux", "amd64")], AMD64, "1"),
        ([("linux", "arm64", "v8"), ("linux", "amd64")], Platform("linux", "arm64"), "0"),
        ([("linux", "arm", "v7"), ("linux", "arm", "v6")], Platform("linux", "arm", "v6"), "1"),
        ([None], AMD64, "0"),
        ([("unknown", "unknown"), ("linux", "amd64")], AMD64, "1"),
    ],
)
def test_the_platform_that_fits(platforms: list[Any], wanted: Platform, chosen: str) -> None:
    assert choose(listed(*platforms), wanted).digest == chosen


@pytest.mark.parametrize(
    "platforms", [[], [("linux", "arm64")], [("linux", "amd64", "v3")], [None, None], [("windows", "amd64")]]
)
def test_no_platform_that_fits(platforms: list[Any]) -> None:
    with pytest.raises(BadImage, match="linux/amd64"):
        choose(listed(*platforms), AMD64)


def test_this_host() -> None:
    assert str(host_platform("x86_64")) == "linux/amd64"
    assert str(host_platform("aarch64")) == "linux/arm64"
    assert host_platform().architecture


# ---- manifests


@pytest.mark.parametrize(
    ("kind", "packed"),
    [
        ("application/vnd.oci.image.layer.v1.tar", Compression.NONE),
        ("application/vnd.oci.image.layer.v1.tar+gzip", Compression.GZIP),
        ("application/vnd.oci.image.layer.v1.tar+zstd", Compression.ZSTD),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Compression.GZIP),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", Compression.GZIP),
        ("application/vnd.docker.image.rootfs.diff.tar", Compression.NONE),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Compression.GZIP),
    ],
)
def test_how_a_layer_is_packed(kind: str, packed: Compression) -> None:
    assert compression(Descriptor(digest=D, size=1, media_type=kind)) is packed


def manifest(
    layers: int = 1, kind: str = "application/vnd.oci.image.layer.v1.tar", size: int = 1
) -> Manifest:
    made = read_document(IMAGE.manifest)
    assert isinstance(made, Manifest)
    return Manifest(made.config, (Descriptor(digest=D, size=size, media_type=kind),) * layers)


def test_bounds() -> None:
    check_manifest(manifest(MAX_LAYERS, size=10), most_bytes=10 * MAX_LAYERS)
    with pytest.raises(BadImage, match="max_image_bytes"):
        check_manifest(manifest(MAX_LAYERS, size=10), most_bytes=10 * MAX_LAYERS - 1)
    with pytest.raises(BadImage, match="500 layers"):
        check_manifest(manifest(500), most_bytes=10_000)
    with pytest.raises(BadImage, match="no layers"):
        check_manifest(manifest(0), most_bytes=1)
    with pytest.raises(BadImage, match="application/x"):
        check_manifest(manifest(kind="application/x"), most_bytes=1)
    artifact = Manifest(Descriptor(digest=D, size=2, media_type="application/vnd.helm"), manifest().layers)
    with pytest.raises(BadImage, match="no image"):
        check_manifest(artifact, most_bytes=1)


# ---- configs


def test_a_config() -> None:
    inner = {
        "Env": ["PATH=/bin", "A=b=c", "EMPTY=", "BARE"],
        "WorkingDir": "srv/../app/",
        "User": "app:staff",
        "Entrypoint": ["/init"],
        "Cmd": ["serve"],
        "Labels": {"a": "b"},
    }
    got, diff_ids = read_config(config(config=inner), 1, AMD64)
    assert got.env == {"PATH": "/bin", "A": "b=c", "EMPTY": ""}
    assert (got.workdir, got.user, got.entrypoint, got.cmd) == ("/app", "app:staff", ("/init",), ("serve",))
    assert diff_ids == (D,)


def test_a_config_of_nulls() -> None:
    inner = dict.fromkeys(("Env", "WorkingDir", "User", "Entrypoint", "Cmd", "Labels"))
    for text in (config(config=inner), config(config=None), config()):
        got, _ = read_config(text, 1, AMD64)
        assert (got.env, got.workdir, got.user, got.cmd) == ({}, "/", "", ())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (config(architecture="arm64"), "linux/arm64"),
        (config(os="windows"), "windows/amd64"),
        (config(rootfs=None), "0 layers"),
        (config(rootfs={"diff_ids": [D, D]}), "2 layers"),
        (config(rootfs={"diff_ids": ["sha256:x"]}), "sha256:x"),
        (config(config={"Env": ["=x"]}), "without a name"),
        (config(config={"Env": ["A=\0"]}), "NUL"),
        (config(config={"Env": ["A=" + "x" * 70_000]}), "65536"),
        (config(config={"User": "\0"}), "User"),
        (config(config={"WorkingDir": "x" * 5000}), "WorkingDir"),
        (config(config={"Cmd": ["x"] * 2000}), "Cmd"),
        (config(config={"Entrypoint": ["\0"]}), "Entrypoint"),
        (config(config={"Env": "A=1"}), "not what it should be"),
        (config(config=[]), "not what it should be"),
    ],
)
def test_a_config_that_is_refused(text: bytes, sentence: str) -> None:
    with pytest.raises(BadImage, match=sentence):
        read_config(text, 1, AMD64)


def test_a_workdir_leads_nowhere_else() -> None:
    for text in ("../../etc", "/..", "a/../../b", "//x"):
        got, _ = read_config(config(config={"WorkingDir": text}), 1, AMD64)
        assert got.workdir.startswith("/")
        assert ".." not in got.workdir.split("/")
