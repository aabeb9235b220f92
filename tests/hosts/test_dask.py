"""Dask: clusters of worker processes under `python -m aioxide`, and by AIOXIDE_CHILDREN.

Run by pytest on asyncio and on aioxide.  Workers are processes that multiprocessing spawns; each
says on which loop it runs.
"""

import sys

import pytest
from starting import needs, run, said, started, under

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


CLIENT = """
import sys
from distributed import Client

def kind(dask_worker=None, dask_scheduler=None):
    loop = (dask_worker or dask_scheduler).loop.asyncio_loop
    return type(loop).__module__.split(".")[0]

with Client(sys.argv[1], timeout=40) as client:
    client.wait_for_workers(1, timeout=40)
    print("> worker", *client.run(kind).values())
    print("> scheduler", client.run_on_scheduler(kind))
    print("> sum", client.submit(sum, range(10)).result(timeout=40))
"""


def test_a_scheduler_and_a_worker_from_their_command_lines(namespace, tmp_path, dask):
    (tmp_path / "client.py").write_text(CLIENT)
    dask_on = [*under(namespace, sys.executable), "-m"]
    scheduling = [*dask_on, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    with started([*scheduling, "--no-dashboard"], tmp_path, **dask) as scheduler:
        address = scheduler.wait_for(r"Scheduler at: +(tcp://127\.0\.0\.1:\d+)")[1]
        working = [*dask_on, "distributed.cli.dask_worker", address, "--nworkers", "1"]
        with started([*working, "--no-dashboard"], tmp_path, **dask) as worker:
            code, output = run([sys.executable, "client.py", address], tmp_path, **dask)
            assert code == 0, output
            loop = namespace.__name__
            assert said(output) == [f"worker {loop}", f"scheduler {loop}", "sum 45"]
            assert worker.stop() == 0
        assert scheduler.stop() == 0
