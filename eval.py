"""Evaluates a training run, or several together: exact top-1 and top-5 error.

python eval.py --model_dir=runs/demo
python eval.py --model_dir=runs/demo --views=10 --report_dir=runs/demo/report
python eval.py --checkpoint=runs/a --checkpoint=runs/b --report_dir=both
"""

from alexnet_tf import signals

if __name__ == "__main__":  # from here on a signal ends it in one line
    signals.handle()

from alexnet_tf import command_line
from alexnet_tf.command_line import flags


def define_flags() -> None:
    """Defines the flags."""
    text, whole = flags.DEFINE_string, flags.DEFINE_integer
    text("model_dir", None, "Directory of the run; eval.json is written there.")
    text("data_dir", None, "Default: the data of the run.")
    text("split", "validation", "Split to evaluate.")
    flags.DEFINE_multi_string(
        "checkpoint",
        ["latest"],
        "latest or best of model_dir, the path of a checkpoint or the directory of a "
        "run. Given again: the mean of their probabilities.",
    )
    flags.DEFINE_enum(
        "views", "1", ["1", "10"], "10: corners, centre and mirror images (4.1)."
    )
    whole("num_gpus", None, "Default: all there are.", lower_bound=0)
    whole("global_batch_size", 128, "Over all replicas.", lower_bound=1)
    flags.DEFINE_enum(
        "precision",
        "float32",
        ["auto", "float32", "mixed_bfloat16"],
        "float32 gives the numbers of the exported model.",
    )
    flags.DEFINE_bool("predictions", False, "Write predictions.csv too.")
    text("report_dir", None, "Write a page with figures, and the figures, there.")


def main(values: flags.FlagValues) -> None:
    """Evaluates as the flags say."""
    from alexnet_tf import devices
    from alexnet_tf.evaluation import command

    command.evaluate_run(
        values.model_dir,
        data_dir=values.data_dir,
        split=values.split,
        checkpoints=values.checkpoint,
        views=int(values.views),
        strategy=devices.make_strategy(values.num_gpus),
        global_batch_size=values.global_batch_size,
        precision=values.precision,
        predictions=values.predictions,
        report_dir=values.report_dir,
    )


if __name__ == "__main__":
    command_line.run(main, define_flags)
