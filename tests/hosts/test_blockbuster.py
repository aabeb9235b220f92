"""blockbuster, which forbids calls that block: a loop's own short ones must not set it off.

Run by pytest on asyncio and on aioxide, in this process. It replaces names of `os`, `socket` and
others and knows asyncio's files; here everything that a loop does with files and children is done.
"""

import asyncio
import os
import socket
import subprocess
import sys

import pytest
from blockbuster import BlockingError, blockbuster_ctx
from loopback import Recorder, closed, connected_pair, on_loop, until


@pytest.fixture
def guarded(loop):
    """Begins once the loop is there, and ends before the fixtures of others clean up."""
    with blockbuster_ctx():
        yield


@on_loop
async def test_it_is_awake(loop, guarded, tmp_path):
    with pytest.raises(BlockingError):
        os.stat(tmp_path)


@on_loop
async def test_a_server_on_a_path(loop, guarded, tmp_path):
    path = str(tmp_path / "socket")
    server = await loop.create_unix_server(Recorder, path)
    transport, _ = await loop.create_unix_connection(Recorder, path)
    await closed(transport)
    server.close()
    await server.wait_closed()


@on_loop
async def test_files_are_sent(loop, guarded, tmp_path):
    content = b"a line of a file\n" * 10_000

    def write():
        (tmp_path / "file").write_bytes(content)
        return (tmp_path / "file").open("rb")

    file = await asyncio.to_thread(write)
    ours, theirs = await asyncio.to_thread(connected_pair)
    transport, _ = await loop.connect_accepted_socket(Recorder, ours)
    other, protocol = await loop.connect_accepted_socket(Recorder, theirs)
    assert await loop.sendfile(transport, file) == len(content)
    await until(lambda: len(protocol.received) == len(content))
    assert protocol.received == content
    await closed(transport)
    await closed(other)
    file.close()


@on_loop
async def test_children_and_look_ups(loop, guarded):
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "print(input()[::-1])", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert await child.communicate(b"emases nepo\n") == (b"open sesame\n", None)
    assert await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
    assert await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
    assert await asyncio.to_thread(os.getpid) == os.getpid()
