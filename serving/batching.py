"""Puts what several clients ask into batches, one at a time through the network.

While a batch is computed, what arrives waits; then all of it that fits goes into the
next batch. So a client alone waits for nobody, and many clients share the cost of
reading the weights. What a client no longer waits for is left out, and how much may
wait is bounded.
"""

import asyncio
import collections
import concurrent.futures
from collections.abc import Callable

import numpy as np


class OverloadedError(Exception):
    """As many pictures wait as may: this request has to come again later."""


class Batcher:
    """Runs functions of batches for requests that arrive one by one.

    Args:
        run: From a signature's name and a batch `(n, …)` to a dict of arrays `(n, …)`.
        max_batch: Rows of a batch at most.
        max_waiting: Rows that may wait or be computed; more are `OverloadedError`.
    """

    def __init__(self, run: Callable, max_batch: int = 32, max_waiting: int = 256):
        self._run, self._max_batch, self._max_waiting = run, max_batch, max_waiting
        self._jobs: collections.deque = collections.deque()
        self._arrived = asyncio.Event()
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self.num_waiting = 0
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def ask(self, signature: str, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Answers for some rows; a caller that is cancelled costs nothing more.

        Raises:
            OverloadedError: Too much waits already.
        """
        if self.num_waiting + len(rows) > self._max_waiting:
            raise OverloadedError
        answer = asyncio.get_running_loop().create_future()
        self.num_waiting += len(rows)
        self._jobs.append((signature, rows, answer))
        self._arrived.set()
        try:
            return await answer
        finally:
            self.num_waiting -= len(rows)

    async def close(self) -> None:
        """Ends the work; what still waits is cancelled."""
        self._task.cancel()
        for _, _, answer in self._jobs:
            answer.cancel()
        self._thread.shutdown(wait=True)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            jobs = self._take()
            if not jobs:
                self._arrived.clear()
                continue
            rows = np.concatenate([rows for _, rows, _ in jobs])
            try:
                found = await loop.run_in_executor(
                    self._thread, self._run, jobs[0][0], rows
                )
            except Exception as error:
                for _, _, answer in jobs:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            start = 0
            for _, part, answer in jobs:
                end = start + len(part)
                if not answer.done():  # its client has left in the meantime
                    answer.set_result({k: v[start:end] for k, v in found.items()})
                start = end

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
