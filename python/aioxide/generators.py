"""Asynchronous generators: who is suspended, and how each is closed in the end.

The interpreter calls the two hooks: when a generator is iterated first, and when nobody holds it
any more. Its clean-up runs in the context of that first iteration, where its context variables
are. Never iterates a generator itself.
"""

import contextvars
import gc
import sys
import warnings
from typing import Any

from . import _aioxide
from ._aioxide import gather

__all__ = ("Finalizer", "GeneratorMixin")

_here: contextvars.ContextVar[None] = contextvars.ContextVar("aioxide._here")


def current_context() -> contextvars.Context:
    """The context that code runs in: itself, where `copy_context` gives a copy of it.

    A token knows the context it was made in and shows it to the collector, and to nobody else.
    """
    token = _here.set(None)
    try:
        for referent in gc.get_referents(token):
            if isinstance(referent, contextvars.Context):
                return referent
    finally:
        _here.reset(token)
    return contextvars.copy_context()


class Finalizer:
    """The finalizer of one generator: it knows the context of that generator's first iteration.

    The interpreter takes the finalizer that is set and then tells of the first iteration, so the
    next generator's is set each time. A weak reference to the generator would be of no use: it is
    dead by the time that the finalizer is called.
    """

    __slots__ = ("context", "loop", "taken")

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.context: contextvars.Context | None = None
        self.taken = False

    def belongs_to(self, context: contextvars.Context) -> None:
        """One that somebody kept and set again has several generators, and no context."""
        self.context = None if self.taken else context
        self.taken = True

    def __call__(self, generator: Any) -> None:
        self.loop._asyncgen_finalizer_hook(generator, self.context)


class GeneratorMixin:
    """Asynchronous generators of `EventLoop`."""

    __slots__ = ()

    async def shutdown_asyncgens(self: Any) -> None:
        """Close every async generator that is still suspended, each in its own context."""
        self._asyncgens_shutdown_called = True
        closing = list(self._asyncgens.items())
        self._asyncgens.clear()
        results = await gather(
            *[self._close_generator(generator, context) for generator, context in closing],
            return_exceptions=True,
        )
        for result, (generator, _) in zip(results, closing, strict=True):
            if isinstance(result, Exception):
                self.call_exception_handler(
                    {
                        "message": "an error occurred during closing of "
                        f"asynchronous generator {generator!r}",
                        "exception": result,
                        "asyncgen": generator,
                    }
                )

    def _close_generator(self: Any, generator: Any, context: Any) -> Any:
        """A task that closes `generator` in `context`; not an eager one, which might be in it."""
        if self.get_task_factory() is None:
            return self.create_task(generator.aclose(), context=context)
        return _aioxide.Task(generator.aclose(), loop=self, context=context)

    def _asyncgen_firstiter_hook(self: Any, generator: Any) -> None:
        if self._asyncgens_shutdown_called:
            warnings.warn(
                f"asynchronous generator {generator!r} was scheduled after "
                "loop.shutdown_asyncgens() call",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
        context = current_context()
        self._asyncgens[generator] = context
        finalizer = sys.get_asyncgen_hooks().finalizer
        if isinstance(finalizer, Finalizer):
            finalizer.belongs_to(context)
            sys.set_asyncgen_hooks(finalizer=Finalizer(self))

    def _asyncgen_finalizer_hook(self: Any, generator: Any, context: Any = None) -> None:
        """Called by whichever thread let go of the generator last, at any time."""
        self._asyncgens.pop(generator, None)
        try:
            self.call_soon_threadsafe(self._close_generator, generator, context)
        except RuntimeError:
            # Closed, perhaps in this moment: the generator dies as it is, as asyncio lets it.
            if not self.is_closed():
                raise
