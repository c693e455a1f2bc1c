"""The registry client against servers that really speak TLS, with certificates of an authority of our own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbox.oci.registry import Registry
from nsbox.oci.registry_errors import Passing, Patience, RegistryError, Unfit
from nsbox.oci.session import Endpoint
from tests.registries.certificates import Authority
from tests.registries.fake import FakeRegistry, serving
from tests.registries.images import image, layer

IMAGE = image([layer({"a": b"x"})])
QUICK = Patience(connect=5, silence=5, document=5, backoff=0.01, longest_wait=0.2, tries=3)


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    with tempfile.TemporaryDirectory() as folder:
        yield Authority(Path(folder) / "ours")


@pytest.fixture(scope="module")
def registry(authority: Authority) -> Iterator[FakeRegistry]:
    with serving(authority.server()) as one:
        one.push("a", IMAGE)
        yield one


async def asked(host: str, ca_file: str | Path = "", *, plain: bool = False) -> str:
    """The digest of the image, as the client was told it. Raises ``RegistryError``."""
    endpoint = Endpoint(host=host, plain=plain, ca_file=str(ca_file))
    async with Registry(endpoint, "a", QUICK) as one:
        document = await one.manifest("latest")
        assert document.data == IMAGE.manifest
        return document.media_type


async def refused(host: str, ca_file: str | Path = "", *, plain: bool = False) -> RegistryError:
    with pytest.raises(RegistryError) as caught:
        await asked(host, ca_file, plain=plain)
    return caught.value


async def test_a_ca_of_ones_own(registry: FakeRegistry, authority: Authority) -> None:
    """By the name and by the address that its certificate is for; a blob too."""
    port = registry.host.partition(":")[2]
    for host in (registry.host, f"localhost:{port}"):
        assert await asked(host, authority.ca_file) == IMAGE.media_type
    endpoint = Endpoint(host=registry.host, ca_file=str(authority.ca_file))
    async with Registry(endpoint, "a", QUICK) as one, one.blob(IMAGE.layers[0].digest) as body:
        assert b"".join([piece async for piece in body.pieces()]) == IMAGE.layers[0].blob


async def test_a_stranger_is_not_believed(
    registry: FakeRegistry, authority: Authority, tmp_path: Path
) -> None:
    """Without its CA, and with somebody else's: nothing is asked, and not again."""
    before = len(registry.asked)
    for ca_file in ("", Authority(tmp_path / "theirs").ca_file):
        error = await refused(registry.host, ca_file)
        assert isinstance(error, Unfit)
        assert f"the certificate of {registry.host} is not trusted here" in str(error)
        assert (
            error.remedy
            == f'let the operator name the CA that it is from: ca_file for registries."{registry.host}"'
        )
    assert len(registry.asked) == before


@pytest.mark.parametrize(
    ("names", "days", "why"), [("DNS:elsewhere.example", 2, "mismatch"), ("IP:127.0.0.1", -1, "expired")]
)
async def test_a_certificate_that_is_not_right(authority: Authority, names: str, days: int, why: str) -> None:
    with serving(authority.server(names, days)) as one:
        error = await refused(one.host, authority.ca_file)
    assert isinstance(error, Unfit)
    assert why in str(error)
    assert error.remedy == "let whoever runs the registry mend its certificate"
    assert not one.asked


async def test_tls_to_a_server_without() -> None:
    with serving() as one:
        error = await refused(one.host)
    assert (str(error), type(error)) == (f"{one.host} does not speak TLS", Unfit)
    assert "insecure = true" in error.remedy
    assert not one.asked


async def test_no_tls_to_a_server_with_it(registry: FakeRegistry) -> None:
    """Ours hangs up; others say 400, in words of their own."""
    error = await refused(registry.host, plain=True)
    assert isinstance(error, Passing)
    assert "ca_file" in error.remedy
    with serving() as one:
        one.lies["*"] = lambda handler: handler.reply(400, b"Client sent an HTTP request to an HTTPS server.")
        error = await refused(one.host, plain=True)
    assert str(error) == f"{one.host} answers 400"
    assert "ca_file" in error.remedy


async def test_a_ca_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    for path in (tmp_path / "nowhere", tmp_path / "empty.pem"):
        error = await refused("127.0.0.1:1", path)
        assert "the CA file for 127.0.0.1:1 cannot be read" in str(error)
        assert str(path) in error.remedy


async def test_a_redirect_to_a_stranger(registry: FakeRegistry, authority: Authority, tmp_path: Path) -> None:
    """Who is named is who could not be believed."""
    path = f"/v2/a/blobs/{IMAGE.layers[0].digest}"
    with serving(Authority(tmp_path / "theirs").server()) as store:
        registry.lies[path] = lambda handler: handler.redirect(f"https://{store.host}/x")
        endpoint = Endpoint(host=registry.host, ca_file=str(authority.ca_file))
        try:
            async with Registry(endpoint, "a", QUICK) as one:
                with pytest.raises(Unfit, match=f"the certificate of {store.host}"):
                    async with one.blob(IMAGE.layers[0].digest):
                        pass
        finally:
            registry.lies.clear()
    assert not store.asked
