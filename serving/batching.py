"""Puts what several clients ask into batches, one at a time through the network.

While a batch is computed, what arrives waits; then all of it that fits goes into the
next batch. So a client alone waits for nobody, and many clients share the cost of
reading the weights. What a client no longer waits for is left out.
"""

import asyncio
import collections
import concurrent.futures
from collections.abc import Callable

import numpy as np


class Batcher:
    """Runs functions of batches for requests that arrive one by one.

    Args:
        run: From a signature's name and a batch `(n, …)` to a dict of arrays `(n, …)`.
        max_batch: Rows of a batch at most; a request of more is a batch of its own.
    """

    def __init__(self, run: Callable, max_batch: int = 32):
        self._run, self._max_batch = run, max_batch
        self._jobs: collections.deque = collections.deque()
        self._arrived = asyncio.Event()
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def ask(self, signature: str, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Answers for some rows; a caller that is cancelled costs nothing more."""
        answer = asyncio.get_running_loop().create_future()
        self._jobs.append((signature, rows, answer))
        self._arrived.set()
        return await answer

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            jobs = self._take()
            if not jobs:
                self._arrived.clear()
                continue
            try:
                found = await loop.run_in_executor(self._thread, self._answer, jobs)
            except Exception as error:
                found = [error] * len(jobs)
            for (_, _, answer), columns in zip(jobs, found, strict=True):
                if answer.done():  # its client has left in the meantime
                    continue
                if isinstance(columns, Exception):
                    answer.set_exception(columns)
                else:
                    answer.set_result(columns)

    def _answer(self, jobs: list[tuple]) -> list[dict[str, np.ndarray]]:
        """Runs jobs as one batch, and gives each its own rows of the answer."""
        found = self._run(jobs[0][0], np.concatenate([rows for _, rows, _ in jobs]))
        ends = np.cumsum([len(rows) for _, rows, _ in jobs])
        columns = {name: np.split(values, ends[:-1]) for name, values in found.items()}
        return [
            {name: parts[i] for name, parts in columns.items()}
            for i in range(len(jobs))
        ]

    def _take(self) -> list[tuple]:
        """The next jobs that fit into one batch: of one signature and one shape."""
        jobs, number = [], 0
        while self._jobs:
            signature, rows, answer = self._jobs[0]
            if answer.done():  # cancelled: nobody waits for it
                self._jobs.popleft()
                continue
            alike = not jobs or (
                signature == jobs[0][0] and rows.shape[1:] == jobs[0][1].shape[1:]
            )
            if jobs and (not alike or number + len(rows) > self._max_batch):
                break
            jobs.append(self._jobs.popleft())
            number += len(rows)
        return jobs
