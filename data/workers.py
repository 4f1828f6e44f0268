"""Work in other processes, with a bounded number of pictures in flight."""

import collections
import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Sequence

from alexnet_tf import programs, signals
from alexnet_tf.errors import UserError
from data.source import Item
from data.transcode import Record

_ITEMS_PER_TASK = 16
_TASKS_PER_WORKER = 4  # in flight, so that memory is bounded
_CORES_OF_CGROUP = "/sys/fs/cgroup/cpu.max"


def in_workers(
    work: Callable[[Sequence[Item]], list[Record]],
    items: Iterable[Item],
    num_workers: int | None,
) -> Iterator[Record]:
    """Yields what the work makes of the items, in their order.

    Args:
        work: A function of a module that can be imported: other processes get it.
        items: The pictures.
        num_workers: Processes; 0 for none but this one, None for one for each core.
    """
    if num_workers is None:
        num_workers = _num_cores()
    if not num_workers:
        for item in items:
            yield from work([item])
        return
    items = iter(items)
    tasks = iter(lambda: list(itertools.islice(items, _ITEMS_PER_TASK)), [])
    others = set(multiprocessing.active_children())
    # A signal's exception in the main thread must not meet a process half started.
    starter = concurrent.futures.ThreadPoolExecutor(1)
    pool = starter.submit(_make_pool, num_workers).result()
    pending = collections.deque()
    try:
        for task in tasks:
            pending.append(starter.submit(_submit, pool, work, task).result())
            if len(pending) >= num_workers * _TASKS_PER_WORKER:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    except concurrent.futures.process.BrokenProcessPool:
        raise UserError(
            "a worker was killed, perhaps because memory ran out; run data.prepare "
            f"with fewer than --num_workers={num_workers}"
        ) from None
    except BaseException:  # the pictures in work are not waited for
        starter.shutdown()
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        raise
    finally:
        starter.shutdown()
        pool.shutdown(cancel_futures=True)


def _num_cores() -> int:
    """Returns the cores that this process, or its container, may use."""
    has_affinity = hasattr(os, "sched_getaffinity")  # macOS and Windows have none
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()
    with contextlib.suppress(OSError, ValueError), open(_CORES_OF_CGROUP) as file:
        quota, period = map(int, file.read().split())  # "max" stands for no limit
        cores = min(cores, max(1, quota // period))
    return cores


def _make_pool(num_workers: int) -> concurrent.futures.ProcessPoolExecutor:
    """Makes a pool, and with it Python's own process that keeps its semaphores."""
    # Forking a process that runs TensorFlow's threads is not safe.
    context = multiprocessing.get_context("spawn")
    try:
        with signals.starting_processes():
            return concurrent.futures.ProcessPoolExecutor(
                num_workers, context, initializer=_end_with_parent
            )
    except OSError as error:  # it keeps semaphores there
        raise UserError(
            f"other processes cannot be started, because /dev/shm cannot be used "
            f"({error.strerror}): run data.prepare with --num_workers=0"
        ) from None


def _submit(pool, work: Callable, task: list[Item]) -> concurrent.futures.Future:
    """Gives a task to the pool, which may start a process for it."""
    with (
        signals.starting_processes(),
        programs.starting_workers(),
        _without_main_module(),
    ):
        return pool.submit(work, task)


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    """Inside, processes are started that do not run the program's file again.

    A script that calls `prepare` without asking for its `__name__` would call it in
    every worker; one from the standard input cannot be found again.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _end_with_parent() -> None:
    """Ends a worker whose parent was killed; it would wait for work for ever."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
