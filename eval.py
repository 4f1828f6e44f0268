"""Evaluates a training run: exact top-1 and top-5 error over every example.

python eval.py --model_dir=runs/demo --data_dir=runs/demo_data
"""

from absl import flags

from alexnet_tf import command_line


def define_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_string("model_dir", None, "Directory of the run.", required=True)
    flags.DEFINE_string("data_dir", None, "Default: the data of the run.")
    flags.DEFINE_string("split", "validation", "Split to evaluate.")
    flags.DEFINE_string("checkpoint", "latest", "latest, best, or a path.")
    flags.DEFINE_integer("num_gpus", None, "Default: all there are.", lower_bound=0)
    flags.DEFINE_integer("global_batch_size", 128, "Over all replicas.", lower_bound=1)
    flags.DEFINE_enum(
        "precision",
        "float32",
        ["auto", "float32", "mixed_bfloat16"],
        "float32 gives the numbers of the exported model.",
    )


def main(values: flags.FlagValues) -> None:
    """Evaluates as the flags say."""
    from alexnet_tf import evaluation

    evaluation.evaluate_run(
        values.model_dir,
        data_dir=values.data_dir,
        split=values.split,
        checkpoint=values.checkpoint,
        num_gpus=values.num_gpus,
        global_batch_size=values.global_batch_size,
        precision=values.precision,
    )


if __name__ == "__main__":
    command_line.run(main, define_flags)
