"""What can go wrong with a registry, and what is tried again."""

from __future__ import annotations

import random
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import httpcore2
import httpx2
import msgspec
import trio

from nsbox.oci.dialer import ForbiddenAddress

_T = TypeVar("_T")


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long is waited for what, in seconds; tests have less of it."""

    connect: float = 15.0
    #: Between two pieces of an answer.
    silence: float = 30.0
    #: For a whole manifest, config or token.
    document: float = 60.0
    #: A blob must bring so many bytes in each stretch of so many seconds: dripping is no better than silence.
    stretch: float = 60.0
    stretch_bytes: int = 64 * 1024
    #: For the answer to a whole blob: the registry hashes it, and may have to bring it elsewhere first.
    stored: float = 300.0
    #: The first wait before something is tried again; it doubles each time.
    backoff: float = 0.5
    longest_wait: float = 60.0
    tries: int = 5


class RegistryError(Exception):
    """The registry could not be asked. ``remedy``: what would help, where more is known than to try again."""

    def __init__(self, sentence: str, *, remedy: str = "") -> None:
        super().__init__(sentence)
        self.remedy = remedy


class NotThere(RegistryError):
    """The registry has no such image or blob, as far as it lets us know."""


class Denied(RegistryError):
    """The registry wants credentials, or others."""


class TooLarge(RegistryError):
    """The registry does not take so much."""


class Unfit(RegistryError):
    """The registry's answer breaks a rule or a bound; it is not asked again."""


class Passing(RegistryError):
    """Something that passes. ``after``: seconds that the registry asked for."""

    def __init__(self, sentence: str, after: float | None = None, *, remedy: str = "") -> None:
        super().__init__(sentence, remedy=remedy)
        self.after = after


#: Errors of verification that another CA would mend (X509_V_ERR_*): no issuer is known, or it is its own.
_UNKNOWN_ISSUER = frozenset({18, 19, 20, 21})
_NO_ANSWER = "check the registry's name and port, and the network of this host"


@contextmanager
def told_by(host: str, *, plain: bool = False) -> Iterator[None]:
    """What the HTTP client raises, in these terms. ``plain``: the host is spoken to without TLS."""
    try:
        yield
    except ForbiddenAddress as error:
        raise Unfit(str(error)) from error
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpcore2.UnsupportedProtocol) as error:
        raise Unfit(f"{host} redirects to what is no address") from error
    except (httpx2.TimeoutException, httpcore2.TimeoutException) as error:
        raise Passing(f"{host} does not answer in time", remedy=_NO_ANSWER) from error
    except (httpx2.HTTPError, httpcore2.NetworkError, httpcore2.ProtocolError) as error:
        trouble = _tls_trouble(error)
        if trouble is not None:
            raise _untrusted(host, trouble) from error
        sentence = str(error) or type(error).__name__
        if not sentence.startswith(host):
            sentence = f"{host}: {sentence}"
        remedy = _NO_ANSWER if isinstance(error, httpcore2.ConnectError) else ""
        if plain and isinstance(error, httpcore2.ProtocolError):
            remedy = in_the_clear(host)
        raise Passing(sentence, remedy=remedy) from error


def in_the_clear(host: str) -> str:
    """The remedy where TLS may be what a host wants that was spoken to without: servers tell in many ways."""
    return f'if it speaks TLS, let the operator set insecure = false, or ca_file, for registries."{host}"'


def _tls_trouble(error: BaseException) -> ssl.SSLError | None:
    """The one below what trio and the HTTP client made of it; they pass on no words of it."""
    at: BaseException | None = error
    while at is not None and not isinstance(at, ssl.SSLError):
        at = at.__cause__ or at.__context__
    return at


def _untrusted(host: str, error: ssl.SSLError) -> Unfit:
    """A handshake that failed does so the next time too: it is not tried again."""
    if isinstance(error, ssl.SSLCertVerificationError):
        mended = f'let the operator name the CA that it is from: ca_file for registries."{host}"'
        if error.verify_code not in _UNKNOWN_ISSUER:
            mended = "let whoever runs the registry mend its certificate"
        why = error.verify_message.rstrip(".")
        return Unfit(f"the certificate of {host} is not trusted here: {why}", remedy=mended)
    if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        mended = f'if it shall be asked without, let the operator set insecure = true for registries."{host}"'
        return Unfit(f"{host} does not speak TLS", remedy=mended)
    return Unfit(f"no TLS connection can be made to {host}: {error.reason or error}")


async def persistently(patience: Patience, attempt: Callable[[], Awaitable[_T]]) -> _T:
    """Try until it works, as often as ``patience`` says, after growing waits or those asked for."""
    wait = patience.backoff
    for left in reversed(range(patience.tries)):
        try:
            return await attempt()
        except Passing as error:
            if not left:
                raise
            # Not all clients at the same moment again.
            pause = error.after if error.after is not None else wait * random.uniform(0.5, 1.0)  # noqa: S311
            await trio.sleep(min(pause, patience.longest_wait))
            wait *= 2
    raise AssertionError("no try at all")
