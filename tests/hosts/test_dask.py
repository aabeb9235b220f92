"""Dask: a cluster of worker processes under `python -m aioxide`, and by AIOXIDE_CHILDREN.

Run by pytest on asyncio and on aioxide.  Workers are processes that multiprocessing spawns; each
says on which loop it runs.
"""

import sys

import pytest
from starting import needs, run, said, under

pytestmark = needs("distributed")

PROGRAM = """
{first}

def kind(dask_worker):
    return type(dask_worker.loop.asyncio_loop).__module__.split(".")[0]

def square(number):
    return number * number

if __name__ == "__main__":
    from distributed import Client, LocalCluster

    options = dict(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
    with LocalCluster(host="127.0.0.1", **options) as cluster, Client(cluster) as client:
        print("> workers", *client.run(kind).values())
        print("> scheduler", type(cluster.scheduler.loop.asyncio_loop).__module__.split(".")[0])
        squares = client.map(square, range(100))
        print("> sum", client.submit(sum, squares).result(timeout=40))
        big = client.scatter(b"x" * 2_000_000)
        print("> size", client.submit(len, big).result(timeout=40))
        failed = client.submit(square, "text")
        print("> error", type(failed.exception(timeout=40)).__name__)
"""
ANSWERS = ["sum 328350", "size 2000000", "error TypeError"]


@pytest.fixture
def dask(tmp_path):
    return {"DASK_TEMPORARY_DIRECTORY": str(tmp_path / "dask"), "DASK_CONFIG": str(tmp_path)}


def test_a_cluster(namespace, tmp_path, dask):
    (tmp_path / "program.py").write_text(PROGRAM.format(first=""))
    code, output = run([*under(namespace, sys.executable), "program.py"], tmp_path, **dask)
    loop = namespace.__name__
    assert code == 0, output
    assert said(output) == [f"workers {loop} {loop}", f"scheduler {loop}", *ANSWERS]


def test_a_cluster_whose_workers_alone_are_on_our_loop(tmp_path, dask):
    (tmp_path / "program.py").write_text(PROGRAM.format(first="import aioxide"))
    code, output = run([sys.executable, "program.py"], tmp_path, AIOXIDE_CHILDREN="1", **dask)
    assert code == 0, output
    assert said(output) == ["workers aioxide aioxide", "scheduler asyncio", *ANSWERS]
