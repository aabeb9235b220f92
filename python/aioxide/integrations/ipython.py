"""IPython and Jupyter: an extension for IPython's prompt, and kernels that run on our loop.

    In [1]: %load_ext aioxide

    $ python -m aioxide.integrations.ipython install --user

IPython makes the loop of its prompt when the first `await` needs it, so that an extension comes in
time. A Jupyter kernel runs on its loop before any cell does: it is started on ours, by the kernel
that the command installs. Loaded by IPython, or run by people; it never touches a loop that exists.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..event_loop import EventLoop
from ..runners import install, uninstall
from . import _host

__all__ = ("install_kernel", "load_ipython_extension", "unload_ipython_extension")

KERNEL = [sys.executable, "-m", "aioxide", "-m", "ipykernel_launcher", "-f", "{connection_file}"]


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext aioxide`: what is awaited at IPython's prompt from then on runs on our loop.

    Raises RuntimeError in a Jupyter kernel whose loop is another, and when tasks of earlier cells
    wait on IPython's loop.
    """
    loop = _loop_in_use()
    if isinstance(loop, EventLoop):
        return
    if loop is not None and loop.is_running():
        raise RuntimeError(
            "the loop of this kernel runs and cannot be exchanged: install a kernel that is "
            "started on aioxide, by python -m aioxide.integrations.ipython install --user"
        )
    _forget(loop)
    install()


def unload_ipython_extension(shell: Any) -> None:
    """`%unload_ext aioxide`: the next `await` at the prompt makes a loop of asyncio's.

    Changes nothing in a kernel. Raises RuntimeError when tasks of earlier cells wait on our loop.
    """
    loop = _loop_in_use()
    if loop is not None and loop.is_running():
        return
    _forget(loop)
    uninstall()


def _loop_in_use() -> asyncio.AbstractEventLoop | None:
    """The loop that runs this cell, or the one that IPython made for earlier ones."""
    running = asyncio.events._get_running_loop()
    if running is not None:
        return running
    helpers = _host("IPython.core.async_helpers", "ipython")
    loop: asyncio.AbstractEventLoop | None = helpers._asyncio_event_loop
    return None if loop is None or loop.is_closed() else loop


def _forget(loop: asyncio.AbstractEventLoop | None) -> None:
    """Close IPython's loop: it makes another when it needs one."""
    if loop is None:
        return
    waiting = [task for task in asyncio.all_tasks(loop) if not task.done()]
    if waiting:
        raise RuntimeError(f"IPython's loop is still needed, by tasks that wait: {waiting}")
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def install_kernel(
    name: str = "aioxide",
    display_name: str = "Python 3 (aioxide)",
    user: bool = False,
    prefix: str | None = None,
) -> str:
    """Install a Jupyter kernel that runs on our loop, and return where it is.

    `user` installs for this user, `prefix` below a directory, neither of them for the machine.
    Raises ImportError without ipykernel and OSError where the place cannot be written.
    """
    _host("ipykernel", "ipykernel")
    manager = _host("jupyter_client.kernelspec", "jupyter_client").KernelSpecManager()
    kernel = {
        "argv": KERNEL,
        "display_name": display_name,
        "language": "python",
        "metadata": {"debugger": True},
        "kernel_protocol_version": "5.5",
    }
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "kernel.json").write_text(json.dumps(kernel, indent=1), "utf-8")
        place: str = manager.install_kernel_spec(directory, name, user=user, prefix=prefix)
    return place


def main(arguments: list[str] | None = None) -> None:
    """The command `python -m aioxide.integrations.ipython install`."""
    parser = argparse.ArgumentParser(
        prog="python -m aioxide.integrations.ipython",
        description="Installs a Jupyter kernel that runs on aioxide's event loop.",
    )
    command = parser.add_subparsers(required=True, metavar="install")
    options = command.add_parser("install", description="Installs the kernel.")
    options.add_argument("--name", default="aioxide", help="what Jupyter calls the kernel")
    options.add_argument("--display-name", default="Python 3 (aioxide)", help="what people read")
    place = options.add_mutually_exclusive_group()
    place.add_argument("--user", action="store_true", help="for this user")
    place.add_argument("--prefix", help="below a directory, such as that of a virtual environment")
    place.add_argument(
        "--sys-prefix",
        action="store_const",
        dest="prefix",
        const=sys.prefix,
        help="for this Python's environment",
    )
    given = parser.parse_args(arguments)
    where = install_kernel(given.name, given.display_name, given.user, given.prefix)
    print(f"installed the kernel {given.name} in {where}")


if __name__ == "__main__":
    main()
