"""A certificate authority of the tests' own, and certificates for this host's loopback, made by openssl."""

from __future__ import annotations

import ssl
from pathlib import Path

from tests.registries.tools import need, run

_NAMES = "DNS:localhost,IP:127.0.0.1"


class Authority:
    """A CA in ``folder``. ``ca_file`` is what a client has to trust."""

    def __init__(self, folder: Path) -> None:
        need("openssl")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key, self.ca_file = folder / "ca.key", folder / "ca.pem"
        _made(self._key)
        run(
            "openssl", "req", "-x509", "-new", "-key", str(self._key), "-subj", "/CN=nsbox test CA",
            "-days", "2", "-out", str(self.ca_file),
        )  # fmt: skip

    def certificate(self, names: str = _NAMES, days: int = 2) -> tuple[Path, Path]:
        """A certificate for ``names`` and its key. ``days`` below zero: one that is over."""
        number = len(list(self._folder.glob("server-*.pem")))
        key, request = self._folder / f"server-{number}.key", self._folder / f"server-{number}.csr"
        made, extra = self._folder / f"server-{number}.pem", self._folder / f"server-{number}.ext"
        _made(key)
        run("openssl", "req", "-new", "-key", str(key), "-subj", "/CN=registry", "-out", str(request))
        extra.write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth\n")
        run(
            "openssl", "x509", "-req", "-in", str(request),
            "-CA", str(self.ca_file), "-CAkey", str(self._key),
            "-CAcreateserial", "-days", str(days), "-extfile", str(extra), "-out", str(made),
        )  # fmt: skip
        return made, key

    def server(self, names: str = _NAMES, days: int = 2) -> ssl.SSLContext:
        """For a server in this process."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.certificate(names, days))
        return context


def _made(key: Path) -> None:
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key))
    key.chmod(0o600)
