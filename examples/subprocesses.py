"""Children: run several programs side by side, follow one's output, and stop one in time.

For a newcomer to read and run: python examples/subprocesses.py
The children are Python programs of a line or two, so that it runs anywhere.
"""

import os
import signal
import sys

import aioxide as asyncio

PIPE = asyncio.subprocess.PIPE


async def start(code: str, **options) -> asyncio.subprocess.Process:
    """A child that runs some lines of Python."""
    return await asyncio.create_subprocess_exec(sys.executable, "-ISc", code, **options)


async def side_by_side() -> None:
    """Three children work at the same time; a semaphore would bound their number."""

    async def measure(word: str) -> str:
        child = await start("print(len(input()))", stdin=PIPE, stdout=PIPE)
        printed, _ = await child.communicate(word.encode() + b"\n")
        return f"{word}: {int(printed)}"

    print(await asyncio.gather(*map(measure, ("one", "three", "eleven"))))


async def follow() -> None:
    """Lines are taken as they come; what the child complains of is read beside them."""
    code = "import sys; [print(n, flush=True) for n in range(3)]; sys.exit('no more numbers')"
    child = await start(code, stdout=PIPE, stderr=PIPE)
    complaint = asyncio.create_task(child.stderr.read())
    async for line in child.stdout:
        print("line:", line.decode().strip())
    print("complaint:", (await complaint).decode().strip())
    print("return code:", await child.wait())


async def stop_in_time() -> None:
    """A timeout ends our waiting, not the child: whoever started it ends it, and all of its own."""
    code = "import subprocess; subprocess.run(['sleep', '1000'])"
    child = await start(code, start_new_session=True)
    try:
        async with asyncio.timeout(0.05):
            await child.wait()
    except TimeoutError:
        os.killpg(child.pid, signal.SIGKILL)
    print("killed by", signal.Signals(-await child.wait()).name)


async def cannot_start() -> None:
    """What cannot be started is an OSError, at once."""
    try:
        await asyncio.create_subprocess_exec("a-program-that-nobody-has")
    except FileNotFoundError as error:
        print(f"{error.filename}: {error.strerror}")


async def main() -> None:
    await side_by_side()
    await follow()
    await stop_in_time()
    await cannot_start()


if __name__ == "__main__":
    asyncio.run(main())
