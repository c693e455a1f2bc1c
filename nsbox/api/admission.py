"""Who is let in: the key, how often it comes, whom it acts for. What it may do is in ``scopes``."""

from __future__ import annotations

import time
from collections import Counter
from math import ceil

import msgspec

from nsbox.api import origin
from nsbox.api.auth import authenticate, presented_key
from nsbox.api.exchange import Exchange
from nsbox.api.rates import Buckets, Verdict
from nsbox.api.services import Keys
from nsbox.model.account import Caller
from nsbox.model.errors import Code, Problem
from nsbox.plan import edge
from nsbox.plan.addresses import neighbourhood
from nsbox.settings import Settings
from nsbox.store.keys import can_be_guessed

ACT_FOR = "Nsbox-User"
#: In so many seconds an address is forgiven all the keys that are not known.
FORGIVEN_S = 300
#: Addresses, and keys, that are remembered: some 100 bytes each.
_MOST_ADDRESSES, _MOST_KEYS = 20_000, 100_000


class Admission:
    """One for the whole of the HTTP layer."""

    def __init__(self, keys: Keys, settings: Settings) -> None:
        self._keys = keys
        self._trusted = edge.trusted(settings.trusted_proxies)
        self._failures: Buckets | None = None
        if settings.auth_failures:
            rate = settings.auth_failures / FORGIVEN_S
            self._failures = Buckets(rate, settings.auth_failures, _MOST_ADDRESSES)
        self._rates: Buckets | None = None
        self._policy = b""
        self._most_at_once = settings.user_requests
        self._working: Counter[str] = Counter()
        if settings.rate_limit:
            self._rates = Buckets(settings.rate_limit, settings.rate_burst, _MOST_KEYS)
            self._policy = b'"key";q=%d;w=%d' % (settings.rate_burst, self._rates.window)

    def admit(self, exchange: Exchange) -> Caller:
        """Who it is. Raises ``Problem``; the answer, also that of a problem, gets headers that tell how much
        the key may still do."""
        known = exchange.caller = self._known(exchange)
        self._count(exchange, known)
        self.enter(exchange, known)
        caller = exchange.caller = self._act_for(exchange, known)
        return caller

    def enter(self, exchange: Exchange, caller: Caller) -> None:
        """Count a request that begins: a stream, or a terminal, is one for as long as it is open. Who acts
        for others is counted himself. Raises ``TOO_MANY_REQUESTS``."""
        user = caller.user.id
        if self._working[user] >= self._most_at_once:
            raise Problem(
                Code.TOO_MANY_REQUESTS,
                f"the user may have {self._most_at_once} requests at once, and has them",
                remedy="close streams and terminals that nobody reads, and send the request again",
                retryAfterS=1,
            )
        self._working[user] += 1
        exchange.counted = user

    def leave(self, exchange: Exchange) -> None:
        """The request is over, however it went. Idempotent."""
        user, exchange.counted = exchange.counted, None
        if user is not None:
            self._working[user] -= 1
            if not self._working[user]:
                del self._working[user]

    def client(self, exchange: Exchange) -> str:
        """The address that it came from."""
        return origin.address(exchange.scope, self._trusted)

    def _known(self, exchange: Exchange) -> Caller:
        """A short preset key may be guessed, so an address that has failed too often is not told whether this
        one is right. A random one cannot be: it is let in from anywhere, so that nobody who shares an address
        with a guesser (a household, a proxy) is locked out by him."""
        headers = exchange.scope["headers"]
        # Without buckets, nobody has failed: nothing is worked out.
        if self._failures and can_be_guessed(presented_key(headers)):
            self._check(self._failures, neighbourhood(self.client(exchange)))
        try:
            return authenticate(headers, self._keys)
        except Problem as problem:
            if problem.code is Code.INVALID_KEY:
                self.failed(exchange)
            raise

    def failed(self, exchange: Exchange) -> None:
        """Somebody has shown what opens nothing. Raises ``TOO_MANY_FAILURES`` for one too many."""
        if self._failures is not None:
            name = neighbourhood(self.client(exchange))
            self._check(self._failures, name)
            self._failures.take(name, time.monotonic())

    def _check(self, failures: Buckets, name: str) -> None:
        wait = failures.wait(name, time.monotonic())
        if wait:
            raise Problem(
                Code.TOO_MANY_FAILURES,
                "too many keys that are not known came from this address",
                remedy="wait, or use a key of 32 characters or more, such as `nsbox keys create` makes",
                retryAfterS=ceil(wait),
            )

    def _act_for(self, exchange: Exchange, caller: Caller) -> Caller:
        named = [value for name, value in exchange.scope["headers"] if name == b"nsbox-user"]
        if not named:
            return caller
        if len(named) > 1:
            raise Problem(Code.INVALID_REQUEST, f"the header {ACT_FOR} is given twice", field=ACT_FOR)
        if not caller.may_act_for_others:
            raise Problem(
                Code.FORBIDDEN,
                "acting for a user takes a key with the scope admin",
                field=ACT_FOR,
                scope="admin",
            )
        user = self._keys.user(named[0].decode("latin-1"))
        if user is None:
            raise Problem(Code.USER_NOT_FOUND, "there is no such user", field=ACT_FOR)
        return msgspec.structs.replace(caller, acting_for=user)

    def _count(self, exchange: Exchange, caller: Caller) -> None:
        if self._rates is None:
            return
        found = self._rates.take(caller.key.id, time.monotonic())
        exchange.extra += (
            (b"ratelimit-policy", self._policy),
            (b"ratelimit", b'"key";r=%d;t=%d' % (found.remaining, ceil(_until(found)))),
        )
        if found.wait:
            raise Problem(
                Code.TOO_MANY_REQUESTS,
                f"the key may make {self._rates.burst} requests at once, and has made them",
                remedy="send the request again after Retry-After seconds",
                retryAfterS=ceil(found.wait),
            )


def _until(found: Verdict) -> float:
    """When there is more than now: of an empty bucket the next token, else the full bucket."""
    return found.wait or found.full_in
