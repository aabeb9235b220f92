"""Makes the processes that `multiprocessing` starts use aioxide's loop as well.

Called by `python -m aioxide`. A forked child has everything from its parent; what spawn and
forkserver send to a new process carries one entry more, which installs aioxide where it is
unpickled. It never touches a process that is not started by `multiprocessing`.
"""

import multiprocessing.spawn
from collections.abc import Callable
from typing import Any

from .runners import install

__all__ = ("follow_children",)

_original_preparation_data = multiprocessing.spawn.get_preparation_data


class _Follow:
    """Unpickling it calls `follow_children`, before the child imports the program."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return follow_children, ()


def _preparation_data(name: str) -> dict[str, Any]:
    return {"aioxide": _Follow(), **_original_preparation_data(name)}


def follow_children() -> None:
    """Install aioxide here and in every process that `multiprocessing` starts from here."""
    install()
    multiprocessing.spawn.get_preparation_data = _preparation_data
