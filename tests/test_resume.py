"""A run that was stopped anywhere ends as one that was not, bit for bit.

Most are stopped inside this process, by an exception in the place of a kill, with one
compiled trainer; one of a kind is a real process that gets a real signal.
"""

import json
import multiprocessing
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
import run_and_kill
import tensorflow as tf
from helpers import (
    SMALL,
    draw_no_pictures,
    give_back_trainers,
    largest_difference,
    make_trainer,
)
from run_and_kill import GIVEN, ROOT

from alexnet_tf import signals
from alexnet_tf.evaluation.evaluator import Evaluator
from alexnet_tf.evaluation.results import Evaluation, Predictions
from alexnet_tf.metrics_file import read_records
from alexnet_tf.paths import list_checkpoints
from alexnet_tf.run import Run
from alexnet_tf.signals import Interrupted
from alexnet_tf.training import training
from alexnet_tf.training.checkpoints import Checkpoints
from alexnet_tf.training.loop import Loop

# Nothing here depends on what takes long to compile, nor several workers on dropout.
WORKERS = {"image_size": 67, "lrn": False, "dropout_rate": 0.0}
QUICK = WORKERS | {"global_batch_size": 8}
TIMED = ("images_per_second", "input_wait")  # what may differ between two runs


def read_state(run):
    """Everything in the last checkpoint, and the metrics without the timings."""
    path = run.checkpoint_path()
    tensors = {
        name: tf.train.load_variable(path, name)
        for name, _ in tf.train.list_variables(path)
        if "OBJECT_GRAPH" not in name
    }
    lines = pathlib.Path(run.metrics_file).read_text().splitlines()
    records = [
        {k: v for k, v in json.loads(line).items() if k not in TIMED} for line in lines
    ]
    best = os.path.basename(run.checkpoint_path("best"))
    return os.path.basename(path), best, tensors, records


def assert_same_state(run, reference):
    latest, best, tensors, records = read_state(run)
    expected_latest, expected_best, expected_tensors, expected_records = reference
    assert (latest, best) == (expected_latest, expected_best)
    assert records == expected_records
    assert tensors.keys() == expected_tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(value, expected_tensors[name], err_msg=name)


# In this process.


class Killed(BaseException):
    """What stands for SIGKILL: nothing may catch it."""


def kill_at(patch, owner, name, number, after=False):
    """Has the n-th call of a method end everything, before or after it is done."""
    method, calls = getattr(owner, name), []

    def replaced(*args, **kwargs):
        calls.append(1)
        result = None
        if len(calls) < number or after:
            result = method(*args, **kwargs)
        if len(calls) == number:
            raise Killed
        return result

    patch.setattr(owner, name, replaced)


# Each goes on from where the one before was killed.
KILLS = {
    "in the first step": ("run_steps", 1, False),
    "after a step": ("run_steps", 4, True),
    "before a checkpoint": (Checkpoints, "save", 2, False),
    "in a validation": (Evaluator, "evaluate", 1, False),
    "between a validation and its record": (Loop, "_write", 1, False),
    "after a validation": (Loop, "_validate", 1, True),
    "in the last validation": (Evaluator, "evaluate", 1, False),
}


def test_a_run_killed_anywhere_ends_as_one_that_was_not(
    data_dir, tmp_path, monkeypatch
):
    """On two replicas, each of which has a state of its own."""
    draw_no_pictures(monkeypatch.setattr)
    errors, trainers = {5: 0.5, 10: 0.4, 15: 0.45}, []
    monkeypatch.setattr(
        Evaluator, "evaluate", lambda *_, **__: guess(errors[trainers[-1].step])
    )

    def loop(folder):
        give_back_trainers()  # the same compiled one again, from its beginning
        trainers.append(make_trainer(data_dir, 2, "small", **GIVEN))
        return Loop(trainers[-1], Run(str(tmp_path / folder)))

    assert loop("whole").run()
    whole = read_state(Run(str(tmp_path / "whole")))
    assert [record["step"] for record in whole[3]] == [5, 5, 10, 10, 15, 15]
    run = Run(str(tmp_path / "killed"))
    for kill in KILLS.values():
        with monkeypatch.context() as patch:
            started = loop("killed")
            owner, *rest = kill if len(kill) == 4 else (started._trainer, *kill)
            kill_at(patch, owner, *rest)
            with pytest.raises(Killed):
                started.run()
    assert loop("killed").run()
    assert_same_state(run, whole)
    # Once more: it is at its end, and stays as it is.
    assert loop("killed").run()
    assert_same_state(run, whole)


def test_a_signal_ends_a_validation_between_two_batches(
    data_dir, tmp_path, monkeypatch
):
    """It is saved before, and validated again when training goes on."""
    draw_no_pictures(monkeypatch.setattr)
    run, batches = Run(str(tmp_path)), []
    loop = Loop(make_trainer(data_dir, **QUICK, num_epochs=1.0), run)
    evaluate = loop._trainer.evaluator.evaluate

    def evaluate_and_get_a_signal(*args, on_batch):
        def on(number):
            batches.append(number)
            if len(batches) == 2:
                patch.setattr(signals._State, "received", (signal.SIGTERM,))
            on_batch(number)

        return evaluate(*args, on_batch=on)

    with monkeypatch.context() as patch:
        patch.setattr(loop._trainer.evaluator, "evaluate", evaluate_and_get_a_signal)
        assert not loop.run()
    assert batches == [8, 16]  # of 25 images
    assert [record["split"] for record in loop._log.records] == ["train"]
    assert os.path.basename(run.checkpoint_path()) == "ckpt-19"
    give_back_trainers()
    again = Loop(make_trainer(data_dir, **QUICK, num_epochs=1.0), run)
    assert again.run()
    assert [r["split"] for r in again._log.records] == ["train", "validation"]
    assert again.evaluations["validation"].num_evaluated == 25


def test_a_worker_gets_its_own_signal_while_it_stops_for_another(
    data_dir, tmp_path, monkeypatch
):
    """The signal comes while the last checkpoint is written, and asks for no more."""
    draw_no_pictures(monkeypatch.setattr)
    trainer = make_trainer(data_dir, **QUICK, steps_per_loop=1)
    loop = Loop(trainer, Run(str(tmp_path)))
    monkeypatch.setattr(loop._workers, "any", lambda _: loop._trainer.step >= 2)
    close = loop.checkpoints.close

    def get_a_signal_and_close():
        monkeypatch.setattr(signals._State, "received", (signal.SIGTERM,))
        close()

    monkeypatch.setattr(loop.checkpoints, "close", get_a_signal_and_close)
    assert not loop.run()
    assert loop._trainer.step == 2


def test_a_run_goes_on_with_another_batch_in_mid_epoch(data_dir, tmp_path, monkeypatch):
    """The images seen count, and none of an epoch comes twice or never."""
    draw_no_pictures(monkeypatch.setattr)
    monkeypatch.setattr(Evaluator, "evaluate", lambda *_, **__: guess(0.5))
    run = Run(str(tmp_path))
    first = make_trainer(data_dir, **QUICK, num_epochs=2.0, train_steps=7)
    assert Loop(first, run).run()
    assert int(first.state.images.numpy()) == 56
    second = make_trainer(data_dir, **WORKERS, num_epochs=2.0)
    loop = Loop(second, run)
    assert second.timetable.epoch(7) == 56 / 150
    batches = first.batches()
    expected = tf.concat([next(batches)[0] for _ in range(32 // 8)], axis=0)
    np.testing.assert_array_equal(second.next_batch()[0], expected)
    assert loop.run()
    assert second.step == 7 + 8  # 244 images are left of two epochs
    assert int(second.state.images.numpy()) == 56 + 8 * 32
    epochs = [r["epoch"] for r in loop._log.records if r["split"] == "validation"]
    assert epochs == [round((56 + n * 32) / 150, 6) for n in (0, 3, 8)]


def guess(error):
    """What a validation found of which only the error matters."""
    ranks = (np.arange(100) < round(100 * error)).astype(int)
    classes, three = np.zeros((100, 3), int), np.zeros((100, 3))
    answers = np.arange(100) % 3, ranks, np.ones(100), classes, three
    return Evaluation("validation", 1, 100, Predictions(np.arange(100), *answers))


def test_patience_ends_a_run_and_the_best_is_kept(data_dir, tmp_path, monkeypatch):
    draw_no_pictures(monkeypatch.setattr)
    errors = iter([0.5, 0.3, 0.4, 0.35, 0.1])
    monkeypatch.setattr(Evaluator, "evaluate", lambda *_, **__: guess(next(errors)))
    trainer = make_trainer(data_dir, **WORKERS, validate_every=2, patience=2)
    run = Run(str(tmp_path))
    loop = Loop(trainer, run)
    assert loop.run()
    assert trainer.step == 8
    assert trainer.validations[:, 1].tolist() == [0.5, 0.3, 0.4, 0.35]
    assert os.path.basename(run.checkpoint_path("best")) == "ckpt-4"
    for name in ("describe_evaluation", "write_results"):
        monkeypatch.setattr(training, name, lambda *_: None)
    _, ended, best = training._write_results(loop, trainer, run)
    assert ended.startswith("Training ended at step 8 of ")
    assert re.match(r"The best validation was that of epoch [\d.]+: 70\.0%", best)


# Real processes.

# Each starts as a copy of one that has imported everything and done nothing yet.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["alexnet_tf.training.training"])


def start_process(target, folder, *arguments):
    """A process, and the file for what it prints."""
    file, output = tempfile.mkstemp(dir=folder)
    os.close(file)
    arguments = (*arguments, output)
    process = processes.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process, pathlib.Path(output)


def start(data_dir, model_dir, where="never"):
    folder = pathlib.Path(model_dir).parent
    return start_process(run_and_kill.run, folder, data_dir, str(model_dir), where)


def finish(started, code=0):
    process, output = started
    process.join(timeout=500)
    assert process.exitcode == code, output.read_text()
    return output.read_text()


@pytest.mark.parametrize("where", ["save", "step"])
def test_a_killed_process_ends_as_one_that_was_not(
    data_dir, tmp_path, where, monkeypatch
):
    """This process goes on from what another one left, and has done all of it once."""
    draw_no_pictures(monkeypatch.setattr)
    whole, killed = Run(str(tmp_path / "whole")), Run(str(tmp_path / "killed"))
    started = start(data_dir, killed.model_dir, where)
    assert Loop(make_trainer(data_dir, 1, "small", **GIVEN), whole).run()
    finish(started, code=-signal.SIGKILL)
    give_back_trainers()
    trainer = make_trainer(data_dir, 1, "small", **GIVEN)
    loop = Loop(trainer, killed)
    assert trainer.step in (5, 6)  # the disk may have been behind
    assert loop.run()
    assert_same_state(killed, read_state(whole))


def as_flags(settings):
    return [f"--{name}={value}" for name, value in settings.items()]


def test_a_deterministic_run_trains_and_says_nothing_of_waiting(data_dir, tmp_path):
    """In a process of its own, as TensorFlow cannot go back from it."""
    settings = SMALL | QUICK | {"simulate_gpus": 1, "train_steps": 2}
    settings |= {"data_dir": data_dir, "model_dir": tmp_path / "run"}
    words = [*as_flags(settings), "--deterministic", "--noexport"]
    finish(start_process(run_and_kill.run_script, tmp_path, words, {}))
    records = read_records(Run(str(tmp_path / "run")).metrics_file)
    assert [record["step"] for record in records] == [2, 2]
    assert records[0]["input_wait"] == 0


class Workers:
    """Two workers of a cluster on this machine."""

    def __init__(self, data_dir, model_dirs, *given, first="chief", as_typed=False):
        """Starts them; the first as a person does, imports and all, if `as_typed`."""
        with (
            socket.create_server(("127.0.0.1", 0)) as a,
            socket.create_server(("127.0.0.1", 0)) as b,
        ):
            addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in (a, b)]
        settings = SMALL | WORKERS | {"num_gpus": 0, "steps_per_loop": 1}
        words = as_flags(settings)
        words += ["--recipe=small", "--lr_schedule=constant", "--warmup_epochs=0"]
        words += [f"--data_dir={data_dir}", "--noexport", *given]
        cluster, tasks, self.started = {}, [], []
        for role, address in zip((first, "worker"), addresses, strict=True):
            tasks.append({"type": role, "index": len(cluster.setdefault(role, []))})
            cluster[role].append(address)
        for task, model_dir in zip(tasks, model_dirs, strict=True):
            config = json.dumps({"cluster": cluster, "task": task})
            folder = model_dirs[0].parent
            own = [*words, f"--model_dir={model_dir}"]
            begin = self._type if as_typed and not self.started else self._fork
            self.started.append(begin(folder, own, {"TF_CONFIG": config}))

    def _fork(self, folder, words, environment):
        return start_process(run_and_kill.run_script, folder, words, environment)

    def _type(self, folder, words, environment):
        output = folder / words[-1].replace("/", "-")
        process = subprocess.Popen(
            [sys.executable, ROOT / "train.py", *words],
            stdout=output.open("w"),
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
        )
        return process, output

    def signal_after_a_checkpoint(self, model_dir, signum, *numbers):
        """Sends a signal to some of them as soon as they have gone on."""
        directory = str(model_dir / "checkpoints")
        before, end = list_checkpoints(directory)[:1], time.monotonic() + 500
        while list_checkpoints(directory)[:1] == before:
            assert time.monotonic() < end, self.texts()
            assert None in self.codes(), self.texts()
            time.sleep(0.01)
        for number in numbers:
            os.kill(self.started[number][0].pid, signum)

    def codes(self):
        """Their exit codes; None of one that is running."""
        return [
            process.poll() if hasattr(process, "poll") else process.exitcode
            for process, _ in self.started
        ]

    def finish(self, *codes):
        """What they printed, when they have ended with these exit codes."""
        end = time.monotonic() + 500
        while None in self.codes() and time.monotonic() < end:
            time.sleep(0.01)
        assert self.codes() == list(codes), self.texts()
        return self.texts()

    def texts(self):
        """What they have printed so far."""
        return [output.read_text() for _, output in self.started]


def test_two_workers_outlive_a_kill_and_signals_and_equal_one(data_dir, tmp_path):
    """As `python train.py` twice; a signal to one or both stops both in order."""
    model_dir = tmp_path / "run"

    def begin(*given, **how):
        often = ("--num_epochs=1000", "--checkpoint_every=2", "--validate_every=1000")
        given = given or often
        return Workers(data_dir, [model_dir, model_dir], *given, **how)

    workers = begin()
    workers.signal_after_a_checkpoint(model_dir, signal.SIGKILL, 1)
    text, _ = workers.finish(1, -signal.SIGKILL)
    assert "another worker was lost" in text
    for numbers in ([1], [0, 1]):
        workers = begin(as_typed=numbers == [0, 1])
        workers.signal_after_a_checkpoint(model_dir, signal.SIGTERM, *numbers)
        for text in workers.finish(75, 75):
            assert "checkpoint saved; this goes on from there" in text
            assert "going on from step" in text
    steps = int(list_checkpoints(str(model_dir / "checkpoints"))[0].split("-")[-1]) + 2
    workers = begin(f"--train_steps={steps}")
    for text in workers.finish(0, 0):
        assert f"going on from step {steps - 2}" in text
    # One process, without dropout, has the same weights but for the order of sums.
    trainer = make_trainer(data_dir, **WORKERS)
    trainer.run_steps(trainer.batches(), tf.constant(steps))
    expected = [w.numpy() for w in trainer.model.trainable_variables]
    model, *_ = Run(str(model_dir)).load_model()
    assert largest_difference(model.trainable_variables, expected) < 1e-4


def test_workers_that_would_train_different_networks_stop_in_one_line(
    data_dir, tmp_path, monkeypatch
):
    """A --model_dir that is not shared: the chief alone goes on from a checkpoint."""
    model_dirs = [tmp_path / "one", tmp_path / "two"]
    draw_no_pictures(monkeypatch.setattr)
    trainer = make_trainer(data_dir, **WORKERS, train_steps=6)
    for model_dir in model_dirs:
        Run(str(model_dir)).start(trainer.config)
    assert Loop(trainer, Run(str(model_dirs[0]))).run()
    workers = Workers(data_dir, model_dirs, "--train_steps=9", first="worker")
    for text in workers.finish(1, 1):
        (line,) = re.findall("error: .*", text)
        assert "do not have the same step, weights" in line
        assert "must all see one --model_dir" in line


def test_interrupted_is_what_a_keyboard_interrupt_is():
    """So that a notebook's interrupt ends a training with its checkpoint, too."""
    assert issubclass(Interrupted, KeyboardInterrupt)
