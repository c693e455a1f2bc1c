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
_MOST_SCOPES = 8


class _Answer(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""


class Tokens:
    """The right to read one repository, or to write to it, for one pull or push. ``insist``: a token must be
    for ``scope``, and for what the registry asks for besides."""

    def __init__(
        self, credentials: Credentials | None, scope: str, ask: Ask, *, insist: bool = False
    ) -> None:
        self._credentials, self._scope, self._ask, self._insist = credentials, scope, ask, insist
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
        asked = {"client_id": "nsbox"}
        if "service" in parameters:
            asked["service"] = parameters["service"]
        scopes = self._scopes(parameters.get("scope", ""))
        who = self._credentials
        if who is not None and who.identity_token:
            asked["scope"] = " ".join(scopes)
            form = {**asked, "grant_type": "refresh_token", "refresh_token": who.identity_token}
            status, body = await self._ask("POST", realm, _FORM, urlencode(form).encode())
        else:
            headers = {"Authorization": who.basic} if who is not None else {}
            joint = "&" if "?" in realm else "?"
            query = urlencode([*asked.items(), *(("scope", one) for one in scopes)])
            status, body = await self._ask("GET", f"{realm}{joint}{query}", headers, None)
        if status in (400, 401, 403):
            raise Denied("the registry's token service does not take the credentials there are for it")
        if status != 200:
            raise Unfit(f"the registry's token service answers {status}")
        return _token(body)

    def _scopes(self, told: str) -> list[str]:
        """A mount is a matter of two repositories: the registry names both, and each is asked for in a
        parameter of its own, as Docker does it."""
        own = [self._scope] if self._insist or not told.split() else []
        return list(dict.fromkeys([*own, *told.split()]))[:_MOST_SCOPES]


def _token(body: bytes) -> str:
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unfit("the registry's token service gives no token") from error
    token = answer.token or answer.access_token
    if not token or len(token) > _MAX_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise Unfit("the registry's token service gives no token")
    return token
