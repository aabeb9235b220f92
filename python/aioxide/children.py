"""Makes children started by `multiprocessing` (spawn and forkserver) use aioxide's loop too.

Called by `python -m aioxide`; the command line of a child gets one import in front, and the child
does the same for its own children.
"""

import multiprocessing.spawn
from typing import Any

from .runners import install

__all__ = ("follow_children",)

_BOOTSTRAP = "import aioxide.children; aioxide.children.follow_children(); "

_original_command_line = multiprocessing.spawn.get_command_line


def _command_line(**kwds: Any) -> list[str]:
    command = list(_original_command_line(**kwds))
    if "-c" in command:
        position = command.index("-c") + 1
        command[position] = _BOOTSTRAP + command[position]
    return command


def follow_children() -> None:
    """Install aioxide here and in every process that is spawned from here."""
    install()
    multiprocessing.spawn.get_command_line = _command_line
