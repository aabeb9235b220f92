"""Hosts whose hooks need code of ours: one module for each, imported by whoever uses that host.

`granian`, `gunicorn`, `ipython`, `pytest` and `unittest`. A host that takes a loop factory needs
none: it is given `aioxide.new_event_loop`. Nothing here is imported by `import aioxide`, and a host
is imported only by the module that is named for it.
"""

import importlib
from typing import Any


def _host(module: str, package: str) -> Any:
    """Import a host's module. Raises ImportError, naming the package to install, if there is none.

    A module that the host itself does not find is the host's own error and stays as it is.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ImportError(
            f"there is no {module}, which this integration of aioxide is for: "
            f"pip install {package}",
            name=error.name,
        ) from error
