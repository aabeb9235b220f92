"""gunicorn: its three kinds of asyncio workers, on our loop.

    gunicorn -k aioxide.integrations.gunicorn.AsgiWorker application:app
    gunicorn -k aioxide.integrations.gunicorn.UvicornWorker application:app
    gunicorn -k aioxide.integrations.gunicorn.AiohttpWorker application:app

Named on gunicorn's command line or in its configuration. A class is made when it is asked for, so
that each needs only the packages it stands on; everything but the loop is theirs.
"""

import asyncio
from typing import Any, ClassVar

from ..runners import install, new_event_loop
from . import _host


def _asgi_worker() -> type[Any]:
    base: Any = _host("gunicorn.workers.gasgi", "'gunicorn>=27'").ASGIWorker

    class AsgiWorker(base):  # type: ignore[misc]
        """gunicorn's own ASGI worker on aioxide's loop; `--asgi-loop` is not looked at."""

        def _setup_event_loop(self) -> None:
            self.loop = new_event_loop()
            self.log.debug("Using aioxide event loop")
            asyncio.set_event_loop(self.loop)

    return AsgiWorker


def _uvicorn_worker() -> type[Any]:
    _host("gunicorn", "gunicorn")
    base: Any = _host("uvicorn_worker", "uvicorn-worker").UvicornWorker

    class UvicornWorker(base):  # type: ignore[misc]
        """uvicorn-worker's `UvicornWorker` on aioxide's loop."""

        CONFIG_KWARGS: ClassVar = {**base.CONFIG_KWARGS, "loop": "aioxide:new_event_loop"}

    return UvicornWorker


def _aiohttp_worker() -> type[Any]:
    _host("gunicorn", "gunicorn")
    base: Any = _host("aiohttp.worker", "aiohttp").GunicornWebWorker

    class AiohttpWorker(base):  # type: ignore[misc]
        """aiohttp's `GunicornWebWorker` on aioxide's loop."""

        def init_process(self) -> None:
            # The base makes its loop with asyncio.new_event_loop. This is the worker's own process.
            install()
            super().init_process()

    return AiohttpWorker


_MAKERS = {
    "AsgiWorker": _asgi_worker,
    "UvicornWorker": _uvicorn_worker,
    "AiohttpWorker": _aiohttp_worker,
}


def __getattr__(name: str) -> type[Any]:
    if name not in _MAKERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    worker = _MAKERS[name]()
    worker.__module__ = __name__
    worker.__qualname__ = name
    globals()[name] = worker
    return worker
