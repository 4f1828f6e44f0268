"""Seconds from `python train.py` to the end of the first training step, part by part.

    python benchmarks/first_step.py --data_dir=DATA_SET
    python benchmarks/first_step.py --data_dir=DATA_SET --other=CHECKOUT

Each start is a process of its own, which ends after its first step. For each part, the
median over the starts of the time and of the processor time, which other programs on
the machine disturb less. With another checkout, such as of an earlier version, both
take turns. A first start of each, which fills the caches, does not count.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

_PARTS = ("imports", "data and run", "network", "loop", "tracing", "first step")
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main():
    """Starts the training again and again, and prints a table."""
    parser = argparse.ArgumentParser()  # absl's flags are those of train.py here
    parser.add_argument("--data_dir", required=True, type=os.path.abspath)
    parser.add_argument("--other", help="another checkout", type=os.path.abspath)
    parser.add_argument("--starts", type=int, default=5)
    args = parser.parse_args()
    checkouts = [_OWN, *([args.other] if args.other else [])]
    for checkout in checkouts:
        _start(checkout, args.data_dir)
    starts = [[_start(x, args.data_dir) for x in checkouts] for _ in range(args.starts)]
    for checkout, times in zip(checkouts, zip(*starts, strict=True), strict=True):
        print(f"\n{checkout}\n{'':14}   time CPU time, s")
        for number, part in enumerate(["total", *_PARTS]):
            rows = [[x[-1], *_differences(x)][number] for x in times]
            print(f"{part:14}{_median(rows, 0):7.2f}{_median(rows, 1):9.2f}")
        totals = sorted(x[-1][0] for x in times)
        print(f"total from {totals[0]:.2f} to {totals[-1]:.2f}")


def _median(rows, column):
    return statistics.median(row[column] for row in rows)


def _differences(stamps):
    pairs = itertools.pairwise([[0.0, 0.0], *stamps])
    return [[b - a for a, b in zip(*pair, strict=True)] for pair in pairs]


def _start(checkout: str, data_dir: str) -> list:
    """Trains one step; returns the time and processor time at the end of each part."""
    with tempfile.TemporaryDirectory() as directory:
        stamps = os.path.join(directory, "stamps.json")
        program = [sys.executable, os.path.abspath(__file__), "child", stamps]
        arguments = [f"--data_dir={data_dir}", f"--model_dir={directory}/run"]
        environment = os.environ | {
            "ALEXNET_TF_PROGRAM": "1",  # imports as train.py does
            "FIRST_STEP_START": str(time.monotonic()),
        }
        subprocess.run(
            [*program, *arguments], cwd=checkout, env=environment, capture_output=True
        )
        with open(stamps) as file:
            return json.load(file)


def _train(stamps_file: str) -> None:
    """What the process does: train.py, with a stamp at the end of each part."""
    sys.path[0] = os.getcwd()
    import train
    from alexnet_tf import command_line

    stamps, start = [], float(os.environ["FIRST_STEP_START"])

    def stamp(*_):
        usage = resource.getrusage(resource.RUSAGE_SELF)
        stamps.append((time.monotonic() - start, usage.ru_utime + usage.ru_stime))

    def before(owner, name, action=stamp):
        original = getattr(owner, name)

        def call(*args, **kwargs):
            action(*args)
            return original(*args, **kwargs)

        setattr(owner, name, call)

    def trace(loop, batches, _):
        stamp()
        loop._trainer.run_steps.get_concrete_function(batches, tf.constant(1))
        stamp()

    def end(*_):
        stamp()
        with open(stamps_file, "w") as file:
            json.dump(stamps, file)
        os._exit(0)

    def main(values, *checked):
        nonlocal tf
        import tensorflow as tf

        from alexnet_tf.training import loop, training

        stamp()
        before(training, "_train_run")
        before(training, "Loop")
        before(loop.Loop, "_train", trace)
        before(loop.Loop, "_show", end)
        train.main(values, *checked)

    tf = None
    command_line.run(main, train.define_flags, train.check)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        stamps_file, sys.argv = sys.argv[2], ["train.py", *sys.argv[3:]]
        _train(stamps_file)
    main()
