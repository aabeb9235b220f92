"""Gives a compiled class its coroutine methods.

A coroutine of Python is a coroutine to everyone: to `inspect`, to mocks that take a class as their
spec, to tracebacks and to the interpreter, which runs it in the frame that awaits it and takes its
result without raising StopIteration. So what waits is a few lines of Python around the compiled
halves of it. Never does the work itself.
"""

import types
from collections.abc import Callable
from typing import TypeVar

__all__ = ("complete",)


_Methods = TypeVar("_Methods", bound=type)


def complete(compiled: type) -> Callable[[_Methods], _Methods]:
    """Move the functions of the class below into `compiled`, which that class inherits from."""

    def move(methods: _Methods) -> _Methods:
        for name, method in vars(methods).items():
            if isinstance(method, types.FunctionType):
                method.__qualname__ = f"{compiled.__name__}.{name}"
                setattr(compiled, name, method)
        return methods

    return move
