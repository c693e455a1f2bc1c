"""How a webhook is called: signed, to a public address only, and without following anybody anywhere."""

from __future__ import annotations

import hashlib
import hmac
import ssl
import time
from typing import NamedTuple

import httpcore2
import httpx2

import nsbox
from nsbox.oci.dialer import Dialer, ForbiddenAddress
from nsbox.oci.transport import Transport

#: For the whole of a call, and for each of its parts.
PATIENCE_S = 10.0


class Answered(NamedTuple):
    """What became of a call. ``why`` is for the operator's log."""

    fine: bool
    why: str


def signature(secret: bytes, timestamp: int, body: bytes) -> str:
    """HMAC-SHA256 over the time and the body: whoever recorded a call cannot make it anew later."""
    return "v1=" + hmac.new(secret, b"%d." % timestamp + body, hashlib.sha256).hexdigest()


class Post:
    """Calls one address. ``private``: it may be one of this host's or of its network."""

    def __init__(self, url: str, secret: bytes, *, private: bool) -> None:
        self._url, self._secret = url, secret
        # Nobody is trusted: the address is looked at after its name is resolved, and that one is dialled.
        backend = Dialer("", private=private)
        self._client = httpx2.AsyncClient(
            transport=Transport(backend, ssl.create_default_context(), 1),
            timeout=PATIENCE_S,
            follow_redirects=False,
            trust_env=False,
        )

    async def call(self, event: str, kind: str, body: bytes) -> Answered:
        """Any 2xx is fine; a redirect is not: it might lead inside."""
        now = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"nsbox/{nsbox.__version__}",
            "Nsbox-Event": kind,
            "Nsbox-Delivery": event,
            "Nsbox-Timestamp": str(now),
            "Nsbox-Signature": signature(self._secret, now, body),
        }
        try:
            async with self._client.stream("POST", self._url, content=body, headers=headers) as answer:
                return Answered(200 <= answer.status_code < 300, f"it answered {answer.status_code}")
        except ForbiddenAddress:
            return Answered(False, "its address is not a public one, and `private` does not allow it")
        except (httpx2.HTTPError, httpcore2.NetworkError, httpcore2.TimeoutException) as error:
            return Answered(False, str(error) or type(error).__name__)
        except (httpcore2.ProtocolError, httpx2.InvalidURL, ssl.SSLError) as error:
            return Answered(False, str(error) or type(error).__name__)

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()
