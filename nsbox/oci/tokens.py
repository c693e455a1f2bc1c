"""How a registry is told who asks: a token from the place that it names, or the password itself.

A password goes to the registry and to its token service, and nowhere else; a token to the registry alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

import msgspec
import trio

from nsbox.oci.challenge import Challenge
from nsbox.oci.credentials import Credentials
from nsbox.oci.registry_errors import Denied, Unfit

#: (method, url, headers, body) to (status, body)
Ask = Callable[[str, str, dict[str, str], bytes | None], Awaitable[tuple[int, bytes]]]

_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_MAX_TOKEN = 64 << 10


class _Answer(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""


class Tokens:
    """The right to read one repository, for one pull."""

    def __init__(self, credentials: Credentials | None, scope: str, ask: Ask) -> None:
        self._credentials, self._scope, self._ask = credentials, scope, ask
        self._renewing = trio.Lock()
        self.authorization: str | None = None

    async def renew(self, challenge: Challenge | None, refused: str | None) -> None:
        """After a 401 to a request with the authorization ``refused``. Raises ``RegistryError``."""
        async with self._renewing:
            if self.authorization != refused:
                return  # another download has got a new one meanwhile
            if challenge is None:
                raise Denied("the registry wants a login of a kind that is not known here")
            if challenge.scheme == "bearer":
                self.authorization = "Bearer " + await self._fetch(challenge.parameters)
            elif self._credentials is None or self._credentials.basic == refused:
                raise Denied("the registry wants a name and a password, or others than it was given")
            else:
                self.authorization = self._credentials.basic

    async def _fetch(self, parameters: dict[str, str]) -> str:
        realm = parameters.get("realm", "")
        asked = {"scope": parameters.get("scope") or self._scope, "client_id": "nsbox"}
        if "service" in parameters:
            asked["service"] = parameters["service"]
        who = self._credentials
        if who is not None and who.identity_token:
            form = {**asked, "grant_type": "refresh_token", "refresh_token": who.identity_token}
            status, body = await self._ask("POST", realm, _FORM, urlencode(form).encode())
        else:
            headers = {"Authorization": who.basic} if who is not None else {}
            joint = "&" if "?" in realm else "?"
            status, body = await self._ask("GET", f"{realm}{joint}{urlencode(asked)}", headers, None)
        if status in (400, 401, 403):
            raise Denied("the registry's token service does not take the credentials there are for it")
        if status != 200:
            raise Unfit(f"the registry's token service answers {status}")
        return _token(body)


def _token(body: bytes) -> str:
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unfit("the registry's token service gives no token") from error
    token = answer.token or answer.access_token
    if not token or len(token) > _MAX_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise Unfit("the registry's token service gives no token")
    return token
