# Made from asynchronous/method.py by scripts/blocking_client.py: change that one, and run it.
"""Routes as methods: the description says what they take and give, the driver does them."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from nsbox.client.blocking.driver import Driver
from nsbox.client.call import Call, T

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Scope")


class Scope:
    """Something with routes of its own."""

    def __init__(self, driver: Driver, at: str) -> None:
        self._driver, self._at = driver, at


class Method(Generic[P, T]):
    """``pause = Method(routes.sandboxes.pause)``: a method with that route's parameters and answer."""

    def __init__(self, route: Callable[Concatenate[str, P], Call[T]]) -> None:
        self._route = route
        self.__doc__ = route.__doc__

    @overload
    def __get__(self, scope: None, owner: type[Any]) -> Method[P, T]: ...
    @overload
    def __get__(self, scope: Scope, owner: type[Any]) -> Callable[P, T]: ...
    def __get__(self, scope: Scope | None, owner: type[Any]) -> Method[P, T] | Callable[P, T]:
        if scope is None:
            return self
        driver, at, route = scope._driver, scope._at, self._route

        def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return driver.do(route(at, *args, **kwargs))

        return update_wrapper(method, route)


class Made(Generic[P, T, S, R]):
    """The same, with something made of the answer: a handle for it."""

    def __init__(self, route: Callable[Concatenate[str, P], Call[T]], make: Callable[[S, T], R]) -> None:
        self._route, self._make = route, make
        self.__doc__ = route.__doc__

    @overload
    def __get__(self, scope: None, owner: type[Any]) -> Made[P, T, S, R]: ...
    @overload
    def __get__(self, scope: S, owner: type[Any]) -> Callable[P, R]: ...
    def __get__(self, scope: S | None, owner: type[Any]) -> Made[P, T, S, R] | Callable[P, R]:
        if scope is None:
            return self
        here, route, make = scope, self._route, self._make

        def method(*args: P.args, **kwargs: P.kwargs) -> R:
            return make(here, here._driver.do(route(here._at, *args, **kwargs)))

        return update_wrapper(method, route)
