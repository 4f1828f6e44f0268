"""Evaluates a training run, or several together: exact top-1 and top-5 error.

python eval.py --model_dir=runs/demo
python eval.py --model_dir=runs/demo --views=10 --report_dir=runs/demo/report
python eval.py --init_weights=bvlc_alexnet.caffemodel --data_dir=IMAGENET
python eval.py --checkpoint=runs/a --checkpoint=runs/b --report_dir=both
"""

from alexnet_tf import signals

if __name__ == "__main__":  # from here on a signal ends it in one line
    signals.handle()

import os

from alexnet_tf import command_line, files
from alexnet_tf.command_line import flags
from alexnet_tf.file_names import REPORT_FILES


def define_flags() -> None:
    """Defines the flags."""
    text, whole = flags.DEFINE_string, flags.DEFINE_integer
    define_path = command_line.define_path
    define_path(
        "model_dir",
        None,
        "The directory of the run. eval.json is written there, or eval_test.json for "
        "the split test.",
        exists=True,
    )
    command_line.define_weights_flags()
    define_path("data_dir", None, "The data set; by default the run's.", exists=True)
    text("split", "validation", "The split to evaluate.")
    define_path(
        "checkpoint",
        ["latest"],
        "latest or best of model_dir, the path of a checkpoint or the directory of a "
        "run. Given again: the mean of their probabilities.",
        many=True,
    )
    flags.DEFINE_enum(
        "views",
        "1",
        ["1", "10"],
        "The crops of a picture whose probabilities are averaged: the central one, or "
        "the corners, the centre and their mirror images (section 4.1).",
    )
    whole("num_gpus", None, "The GPUs to use; by default all.", lower_bound=0)
    whole("global_batch_size", 128, "The images in a step, in all.", lower_bound=1)
    flags.DEFINE_enum(
        "precision",
        "float32",
        ["auto", "float32", "mixed_bfloat16"],
        "float32 gives the numbers of the exported model.",
    )
    command_line.define_choice(
        "predictions",
        ["top", "all"],
        "Also write predictions.csv: a row for each image, with its most probable "
        "classes; --predictions=all adds the probability of every class.",
    )
    define_path(
        "report_dir", None, "Write a page with figures, and the figures, there."
    )


def check(values: flags.FlagValues, arguments: list[str]) -> None:
    """Checks that what is to be written can be, before the work begins."""
    if arguments:
        raise flags.Error(f"unexpected argument {arguments[0]!r}")
    command_line.check_source(values)
    if values.init_weights and not values.data_dir:
        raise flags.Error("--init_weights needs a data set: give --data_dir")
    if values.predictions and not (values.model_dir or values.report_dir):
        raise flags.Error("--predictions needs a directory: give --report_dir")
    inputs = [values.data_dir] if values.data_dir else []
    for name in ("model_dir", "report_dir"):
        if values[name].value and not (name == "model_dir" and values.report_dir):
            files.check_output(values[name].value, inputs, what=f"--{name}")
    if values.report_dir:
        files.check_ours(values.report_dir, REPORT_FILES)
        files.check_output_file(
            os.path.join(values.report_dir, "index.html"),
            what="the page of --report_dir",
            mark=b'content="alexnet_tf report"',
        )


def main(values: flags.FlagValues, _) -> None:
    """Evaluates as the flags say."""
    from alexnet_tf import devices
    from alexnet_tf.evaluation import evaluation

    strategy = devices.make_strategy(values.num_gpus)
    is_auto = values.precision == "auto"
    with strategy.scope():
        networks = evaluation.load_networks(
            values.checkpoint,
            values.model_dir or values.init_weights,
            recipe=values.recipe,
            class_names=values.class_names,
            precision=devices.choose_precision() if is_auto else values.precision,
        )
    directory = values.report_dir or values.model_dir
    evaluation.evaluate_networks(
        networks,
        values.data_dir,
        split=values.split,
        views=int(values.views),
        strategy=strategy,
        global_batch_size=values.global_batch_size,
        outputs=evaluation.Outputs(
            directory, values.predictions, report=values.report_dir is not None
        ),
    )


if __name__ == "__main__":
    command_line.run(main, define_flags, check)
