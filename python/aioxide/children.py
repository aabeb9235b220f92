"""Makes the processes that `multiprocessing` starts use aioxide's loop as well.

Called by `python -m aioxide`, and by `import aioxide` where AIOXIDE_CHILDREN asks for it. A forked
child has everything from its parent; what spawn and forkserver send to a new process carries one
entry more, which installs aioxide where it is unpickled. It never touches a process that is not
started by `multiprocessing`.
"""

import multiprocessing.spawn
import warnings
from collections.abc import Callable
from typing import Any

from .runners import install

__all__ = ("follow_children", "lead_children", "lead_children_if_asked")

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
    lead_children()


def lead_children() -> None:
    """Install aioxide in every process that `multiprocessing` starts from here, and in theirs."""
    multiprocessing.spawn.get_preparation_data = _preparation_data


def lead_children_if_asked(answer: str) -> None:
    """Do what the environment variable AIOXIDE_CHILDREN says: 1 for yes, 0 or nothing for no."""
    if answer == "1":
        lead_children()
    elif answer != "0":
        message = f"AIOXIDE_CHILDREN must be 0 or 1, got {answer!r}; it is taken for 0"
        warnings.warn(message, RuntimeWarning, stacklevel=3)
