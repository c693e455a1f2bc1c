"""Routes as methods: the description says what they take and give, the driver does them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from nsbox.client.asynchronous.driver import AsyncDriver
from nsbox.client.call import Call, T

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="AsyncScope")


class AsyncScope:
    """Something with routes of its own."""

    def __init__(self, driver: AsyncDriver, at: str) -> None:
        self._driver, self._at = driver, at


class AsyncMethod(Generic[P, T]):
    """``pause = AsyncMethod(routes.sandboxes.pause)``: a method with that route's parameters and answer."""

    def __init__(self, route: Callable[Concatenate[str, P], Call[T]]) -> None:
        self._route = route
        self.__doc__ = route.__doc__

    @overload
    def __get__(self, scope: None, owner: type[Any]) -> AsyncMethod[P, T]: ...
    @overload
    def __get__(self, scope: AsyncScope, owner: type[Any]) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(
        self, scope: AsyncScope | None, owner: type[Any]
    ) -> AsyncMethod[P, T] | Callable[P, Coroutine[Any, Any, T]]:
        if scope is None:
            return self
        driver, at, route = scope._driver, scope._at, self._route

        async def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return await driver.do(route(at, *args, **kwargs))

        return update_wrapper(method, route)


class AsyncMade(Generic[P, T, S, R]):
    """The same, with something made of the answer: a handle for it."""

    def __init__(self, route: Callable[Concatenate[str, P], Call[T]], make: Callable[[S, T], R]) -> None:
        self._route, self._make = route, make
        self.__doc__ = route.__doc__

    @overload
    def __get__(self, scope: None, owner: type[Any]) -> AsyncMade[P, T, S, R]: ...
    @overload
    def __get__(self, scope: S, owner: type[Any]) -> Callable[P, Coroutine[Any, Any, R]]: ...
    def __get__(
        self, scope: S | None, owner: type[Any]
    ) -> AsyncMade[P, T, S, R] | Callable[P, Coroutine[Any, Any, R]]:
        if scope is None:
            return self
        here, route, make = scope, self._route, self._make

        async def method(*args: P.args, **kwargs: P.kwargs) -> R:
            return make(here, await here._driver.do(route(here._at, *args, **kwargs)))

        return update_wrapper(method, route)
