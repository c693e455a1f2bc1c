"""Who asks: the bearer key of a request, before anything else of it is looked at."""

from __future__ import annotations

from collections.abc import Iterable

from nsbox.api.services import Keys
from nsbox.model.account import Caller
from nsbox.model.errors import Code, Problem

_REMEDY = "send the header `Authorization: Bearer YOUR_API_KEY`; make a key with `nsbox keys create NAME`"


def authenticate(headers: Iterable[tuple[bytes, bytes]], keys: Keys) -> Caller:
    """Whose key in force the request bears. Raises ``MISSING_KEY`` or ``INVALID_KEY``."""
    caller = keys.find(presented_key(headers))
    if caller is None:
        raise Problem(Code.INVALID_KEY, "the API key is not known, is revoked or has expired", remedy=_REMEDY)
    return caller


def presented_key(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """What the request shows as its key. Raises ``MISSING_KEY``."""
    values = [value for name, value in headers if name == b"authorization"]
    if not values:
        raise Problem(Code.MISSING_KEY, "the request bears no API key", remedy=_REMEDY)
    scheme, _, presented = values[0].decode("latin-1").strip().partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not presented.strip():
        raise Problem(
            Code.MISSING_KEY, "there must be one Authorization header, of the form Bearer", remedy=_REMEDY
        )
    return presented.strip()
