"""A token service as Docker's registry wants one: it gives signed tokens to whoever knows the password."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.registries.tools import PASSWORD, need, run

_NAME = "nsbox-test"
_ALLOWED = "Basic " + base64.b64encode(f"ann:{PASSWORD}".encode()).decode()


class TokenService:
    """``auth`` is what a registry has to be configured with; ``asked`` are the scopes that were asked for."""

    def __init__(self, folder: Path) -> None:
        need("openssl")
        self._key, self._certificate = folder / "token.key", folder / "token.pem"
        run(
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={_NAME}", "-days", "2",
            "-keyout", str(self._key), "-out", str(self._certificate),
        )  # fmt: skip
        self.asked: list[tuple[str, bool]] = []
        handler = type("OwnHandler", (_Handler,), {"service": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)

    @property
    def auth(self) -> str:
        where = f"http://127.0.0.1:{self.server.server_address[1]}/token"
        parts = f"realm: {where}, service: {_NAME}, issuer: {_NAME}, rootcertbundle: {self._certificate}"
        return f"auth: {{token: {{{parts}}}}}\n"

    def token(self, scopes: list[str]) -> str:
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        head = {"typ": "JWT", "alg": "RS256", "x5c": [self._encoded_certificate()]}
        body = {
            "iss": _NAME, "aud": _NAME, "sub": "ann", "jti": str(time.time_ns()),
            "iat": now, "nbf": now - 60, "exp": now + 600, "access": access,
        }  # fmt: skip
        text = f"{_url(json.dumps(head).encode())}.{_url(json.dumps(body).encode())}"
        sign = ["openssl", "dgst", "-sha256", "-sign", str(self._key)]
        signed = subprocess.run(sign, input=text.encode(), capture_output=True, check=True).stdout
        return f"{text}.{_url(signed)}"

    def _encoded_certificate(self) -> str:
        return base64.b64encode(ssl.PEM_cert_to_DER_cert(self._certificate.read_text())).decode()


class _Handler(BaseHTTPRequestHandler):
    service: TokenService

    def do_GET(self) -> None:
        scopes = parse_qs(urlsplit(self.path).query).get("scope", [])
        allowed = self.headers.get("authorization") == _ALLOWED
        self.service.asked.append((" ".join(scopes), allowed))
        document: dict[str, Any] = {"token": self.service.token(scopes)} if allowed else {}
        data = json.dumps(document).encode()
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


def _url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@contextlib.contextmanager
def token_service(folder: Path) -> Iterator[TokenService]:
    """A token service for a while."""
    service = TokenService(folder)
    thread = threading.Thread(
        target=service.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield service
    finally:
        service.server.shutdown()
        service.server.server_close()
        thread.join()
