"""What aioxide.integrations does where a host is missing, and that nobody pays who does not ask.

Run by pytest, in processes of their own: what is imported there is the test.
"""

import sys

import pytest
from starting import run

# The module that is missing, what is then done, and the package that must be named.
MISSING = [
    ("granian", "import aioxide.integrations.granian", "granian"),
    ("gunicorn", "from aioxide.integrations.gunicorn import AsgiWorker", "'gunicorn>=27'"),
    ("gunicorn", "from aioxide.integrations.gunicorn import UvicornWorker", "gunicorn"),
    ("uvicorn_worker", "from aioxide.integrations.gunicorn import UvicornWorker", "uvicorn-worker"),
    ("gunicorn", "from aioxide.integrations.gunicorn import AiohttpWorker", "gunicorn"),
    ("aiohttp", "from aioxide.integrations.gunicorn import AiohttpWorker", "aiohttp"),
    ("IPython", "import aioxide; aioxide.load_ipython_extension(None)", "ipython"),
    (
        "ipykernel",
        "from aioxide.integrations.ipython import install_kernel; install_kernel()",
        "ipykernel",
    ),
]


def python(directory, code):
    return run([sys.executable, "-W", "error", "-c", code], directory)


@pytest.mark.parametrize(("module", "code", "package"), MISSING)
def test_a_missing_host_is_named(tmp_path, module, code, package):
    # What other modules that are needed before it are like does not matter here.
    present = "import sys, types\n"
    if module in ("uvicorn_worker", "aiohttp"):
        present += "sys.modules['gunicorn'] = types.ModuleType('gunicorn')\n"
    present += f"sys.modules[{module!r}] = None\n"
    status, output = python(tmp_path, present + code)
    assert status == 1
    last = output.splitlines()[-1]
    assert last.startswith(f"ImportError: there is no {module}"), output
    assert last.endswith(f", which this integration of aioxide is for: pip install {package}")


def test_an_error_inside_of_a_host_stays_as_it_is(tmp_path):
    (tmp_path / "granian.py").write_text("import something_else")
    status, output = python(tmp_path, "import aioxide.integrations.granian")
    assert status == 1
    assert output.endswith("ModuleNotFoundError: No module named 'something_else'\n")


def test_a_worker_that_does_not_exist(tmp_path):
    status, output = python(tmp_path, "import aioxide.integrations.gunicorn as g; g.SyncWorker")
    assert status == 1
    assert output.endswith(
        "AttributeError: module 'aioxide.integrations.gunicorn' has no attribute 'SyncWorker'\n"
    )


def test_importing_aioxide_imports_no_host(tmp_path):
    code = """
import sys
import asyncio
before = set(sys.modules)
import aioxide
print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))
print(*[name for name in sys.modules if name.startswith('aioxide.integrations')])
"""
    status, output = python(tmp_path, code)
    assert status == 0, output
    imported, integrations = output.splitlines()
    # The standard library's own, beside ourselves.
    assert set(imported.split()) <= {"aioxide", *sys.stdlib_module_names}
    assert not {"multiprocessing", "unittest"} & set(imported.split())
    assert integrations == ""
