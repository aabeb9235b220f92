"""Batches behind a barrier and a semaphore that pretends to be a rate limit, as tutorials do it.

Run by test_guide.py under plain Python and under `python -m aioxide`; both must print the same.
Asserts nothing itself.
"""

import asyncio
from typing import Any


async def process_item(item: Any) -> None:
    await asyncio.sleep(0.001)
    print(f"processed {item}")


async def process_batch(batch: list[Any]) -> None:
    await asyncio.gather(*[process_item(item) for item in batch])
    print(f"a batch of {len(batch)} is done")


async def process_in_batches(items: list[Any], batch_size: int = 100) -> None:
    for start in range(0, len(items), batch_size):
        await process_batch(items[start : start + batch_size])


async def process_with_rate_limit(items: list[Any], rate_limit: int = 10) -> None:
    semaphore = asyncio.Semaphore(rate_limit)

    async def process(item: Any) -> None:
        async with semaphore:
            await process_item(item)
            await asyncio.sleep(1 / rate_limit)

    await asyncio.gather(*map(process, items))


async def main() -> None:
    await process_in_batches(list(range(25)), batch_size=10)
    await process_with_rate_limit(list(range(100, 160)), rate_limit=50)


asyncio.run(main())
print("end")
