"""Turns pictures into a data set to train on.

python -m data.prepare --source=elpv --output=DIR
"""

import collections
import concurrent.futures
import contextlib
import importlib
import itertools
import multiprocessing
import os
import shutil
from collections.abc import Iterable, Iterator

from absl import flags

from alexnet_tf.command_line import run
from alexnet_tf.errors import UserError
from data.source import Item
from data.transcode import Options, Record, transcode

SOURCES = ("imagenet", "folder", "tfds", "elpv")
_ITEMS_PER_TASK = 8
_TASKS_PER_WORKER = 4  # in flight, so memory is bounded
# This module is imported by every worker process: TensorFlow stays inside functions.


def prepare(
    *,
    source: str,
    output: str,
    input: str | None = None,
    name: str | None = None,
    options: Options = Options(),  # noqa: B008, frozen
    num_shards: int | None = None,
    num_workers: int | None = None,
    max_errors: int = 100,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Prepares a data set and prints a summary.

    Args:
        source: One of `SOURCES`.
        output: Directory to make.
        input: What the source reads: a directory or an archive.
        name: Which data set of the source "tfds".
        options: How pictures are stored.
        num_shards: Shards of a split; by default so many that they have 64 MiB or more.
        num_workers: Processes that decode and encode; by default one for each core.
        max_errors: Pictures that may be rejected; more stop the preparation.
        seed: Of the order on disk.
        overwrite: Whether to replace a data set in `output`.

    Raises:
        UserError: The input or the output cannot be used.
    """
    from tqdm import tqdm

    from data.report import Report
    from data.writer import DataSetWriter

    pictures = importlib.import_module(f"data.sources.{source}").open_source(
        input=input, name=name
    )
    output = os.path.abspath(os.path.expanduser(output))
    items = itertools.chain.from_iterable(map(pictures.items, pictures.parts))
    with _written_whole(output, overwrite) as directory:
        writer = DataSetWriter(directory, pictures, options, num_shards, seed)
        report = Report(pictures.class_names, options.image_size)
        records = _transcode_all(items, options, num_workers or _num_cores())
        for record in tqdm(records, total=pictures.num_items, unit=" images"):
            report.add(record)
            if len(report.rejected) > max_errors:
                raise UserError(
                    f"{len(report.rejected)} pictures cannot be used, the last one "
                    f"{record.name}: {record.rejected}; raise --max_errors to go on "
                    "without them"
                )
            if not record.rejected:
                writer.add(record)
        if not any(split == "train" for split, _ in report.counts):
            raise UserError(f"no picture for training in {input or source}")
        writer.finish({**pictures.metadata, **vars(options), **report.statistics()})
    print(f"{output}: {sum(report.counts.values()):,} pictures")


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))


def _transcode_all(
    items: Iterable[Item], options: Options, num_workers: int
) -> Iterator[Record]:
    """Transcodes in worker processes, with a bounded number of pictures in flight."""
    items = iter(items)
    tasks = iter(lambda: list(itertools.islice(items, _ITEMS_PER_TASK)), [])
    # Forking a process that runs TensorFlow's threads is not safe.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(num_workers, context)
    pending = collections.deque()
    try:
        for task in tasks:
            pending.append(pool.submit(transcode, task, options))
            if len(pending) >= num_workers * _TASKS_PER_WORKER:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    except concurrent.futures.process.BrokenProcessPool:
        raise UserError(
            "a worker process was killed, perhaps for want of memory; try fewer "
            f"than --num_workers={num_workers}"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _written_whole(output: str, overwrite: bool) -> Iterator[str]:
    """Yields a directory that becomes `output` only if all goes well."""
    from alexnet_tf.records import INCOMPLETE_SUFFIX

    if os.path.exists(output) and os.listdir(output):
        if not os.path.exists(os.path.join(output, "dataset_info.json")):
            raise UserError(f"{output} is in use, and not by a data set; give another")
        if not overwrite:
            raise UserError(f"{output} has a data set; to replace it give --overwrite")
    directory = output + INCOMPLETE_SUFFIX
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    try:
        yield directory
        if os.path.exists(output):
            shutil.rmtree(output)
        os.rename(directory, output)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def define_flags() -> None:
    """Defines the flags of this script."""
    flags.DEFINE_enum("source", None, SOURCES, "Where the pictures are from.")
    flags.DEFINE_string("input", None, "What the source reads.")
    flags.DEFINE_string("output", None, "Directory to make.")
    flags.DEFINE_integer("num_workers", None, "Processes; default: one for each core.")
    flags.DEFINE_bool("overwrite", False, "Replace a data set in --output.")
    flags.mark_flags_as_required(["source", "output"])


def main(values: flags.FlagValues) -> None:
    """Runs the preparation that the flags describe."""
    prepare(
        source=values.source,
        input=values.input,
        output=values.output,
        num_workers=values.num_workers,
        overwrite=values.overwrite,
    )


if __name__ == "__main__":
    run(main, define_flags)
