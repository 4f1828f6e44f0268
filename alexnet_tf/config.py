"""What a run is: everything that it depends on, and how that is found out."""

import dataclasses
import math
import operator
import types
import typing
from collections.abc import Iterable, Mapping

from alexnet_tf.errors import UserError
from alexnet_tf.files import read_json
from alexnet_tf.pictures.fitting import Fitting
from alexnet_tf.recipes import (
    LARS_SETTINGS,
    RECIPES,
    Recipe,
    choose_recipe,
    fit_fine_tuning,
    fit_small,
)
from alexnet_tf.settings import check, expert_setting, setting, settings_of

if typing.TYPE_CHECKING:  # flags are made from `Config` before TensorFlow is imported
    from alexnet_tf.pipeline.data_set import DataSet, Split
    from alexnet_tf.weights.published import PublishedWeights


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that a run depends on; `config.json` holds it.

    Attributes:
        recipe: The whole recipe, with what the user changed of it.
        data_dir: Directory of the data set.
        class_names: Its classes; the index is the label.
        num_train_examples: Images in its training split.
        fitting: How its pictures were made square, and a picture of a person's is.
        given: Names of the settings that came from the user.
        loss_weights: What each class's cross-entropy counts in the loss, 1 on average
            over the training images; empty where all count the same.
        is_finished: Whether it was trained to its end, evaluated and, where that was
            asked, exported.
    """

    recipe: Recipe
    data_dir: str
    class_names: tuple[str, ...]
    num_train_examples: int
    fitting: Fitting = dataclasses.field(default_factory=Fitting)
    given: tuple[str, ...] = ()
    loss_weights: tuple[float, ...] = ()
    is_finished: bool = False

    init_weights: str | None = setting(
        None,
        "Start from published weights, or from a run, a checkpoint or a .keras file; "
        "the network is then theirs.",
        fixed=True,
        path=True,
    )
    class_weights: str = setting(
        "none",
        "What each class counts in the loss: balanced, all classes the same, however "
        "rare they are; none, all images the same; or a JSON file with the weight "
        "of each class by its name.",
        path=True,
    )
    precision: str = setting(
        "auto",
        "auto is mixed_bfloat16 where the hardware is fast at it, else float32.",
        fixed=True,
        choices=("auto", "float32", "mixed_bfloat16"),
    )
    num_gpus: int | None = setting(
        None,
        "GPUs to train on; by default all there are, 0 for the CPU.",
        lower_bound=0,
    )
    simulate_gpus: int = setting(
        0, "Replicas on the CPU, to try several without GPUs.", lower_bound=0
    )
    train_steps: int | None = setting(
        None, "Steps to train, instead of --num_epochs.", lower_bound=1
    )
    steps_per_loop: int | None = expert_setting(
        None,
        "Steps between two returns to Python; by default half a second of them.",
        lower_bound=1,
    )
    validate_every: int | None = setting(
        None, "Steps between two validations; by default an epoch.", lower_bound=1
    )
    patience: int | None = setting(
        None,
        "Training ends after so many validations that found no better top-1 error.",
        lower_bound=1,
    )
    checkpoint_every: int | None = setting(
        None,
        "Steps between two checkpoints; there is one before each validation, too.",
        lower_bound=1,
    )
    checkpoint_minutes: float = expert_setting(
        10.0,
        "Minutes after which a checkpoint is written where none was before; 0 for "
        "never.",
        lower_bound=0.0,
    )
    keep_checkpoints: int = expert_setting(
        5, "How many of the latest checkpoints to keep.", lower_bound=1
    )
    cache: bool = setting(False, "Keep the training images in memory, decoded.")
    data_service: str | None = expert_setting(
        None, "The tf.data service that reads and augments: grpc://host:port."
    )
    max_bad_records: int = expert_setting(
        100, "How many records may be unusable; more stop the run.", lower_bound=0
    )
    reduce_in_bfloat16: bool | None = expert_setting(
        None,
        "Send gradients from replica to replica in bfloat16, half the size. By default "
        "where the precision is bfloat16.",
    )
    deterministic: bool = expert_setting(
        False, "Make reruns bit-identical on GPUs, too, which is slower there."
    )
    seed: int = setting(
        0,
        "The seed of everything that is drawn at random.",
        lower_bound=0,
        upper_bound=2**32 - 1,
    )

    def __post_init__(self):
        check(self)

    @property
    def image_size(self) -> int:
        """Height and width of the network's input, pixels."""
        return self.recipe.image_size


def check_names(given: Iterable[str]) -> None:
    """Raises a `UserError` for a name that is no setting's."""
    unknown = set(given) - set(_names(Recipe)) - set(_names(Config))
    if unknown:
        raise UserError(f"there is no setting {min(unknown)!r}")


def resolve(
    data_set: "DataSet",
    recipe: str = "auto",
    given: Mapping[str, object] = types.MappingProxyType({}),
    previous: Config | None = None,
    weights: "PublishedWeights | None" = None,
) -> Config:
    """Completes what the user gave by the recipe and the data.

    Args:
        data_set: The data.
        recipe: A name in `RECIPES`, or "auto".
        given: Values by the names of fields of `Recipe` and `Config`.
        previous: That of the run that is to go on; what is not given stays.
        weights: Those that a new run starts from; their network is that of "auto".

    Returns:
        The configuration.

    Raises:
        UserError: A name is unknown, a value out of its range, or the weights are for
            another network than the recipe's.
    """
    check_names(given)
    num_train_examples = data_set.splits["train"].num_examples
    if previous and recipe in ("auto", previous.recipe.name):
        chosen = previous.recipe
    else:
        chosen = _take_recipe(recipe, data_set, given, weights)
    if chosen.optimizer != "lars" and given.get("optimizer") == "lars":
        chosen = dataclasses.replace(chosen, **LARS_SETTINGS)
    settings = {
        name: getattr(previous, name)
        for name in _names(Config)
        if previous and name not in ("num_gpus", "simulate_gpus")
    }
    if "num_epochs" in given:
        settings["train_steps"] = None  # of the previous run
    settings |= {name: given[name] for name in _names(Config) if name in given}
    if previous and "class_weights" not in given:  # whose file may be gone
        loss_weights = previous.loss_weights
    else:
        wanted = settings.get("class_weights", "none")
        split = data_set.splits["train"]
        loss_weights = weigh_classes(wanted, split, data_set.class_names)
    changes = {name: given[name] for name in _names(Recipe) if name in given}
    try:
        return Config(
            dataclasses.replace(chosen, **changes),
            data_dir=data_set.data_dir,
            class_names=data_set.class_names,
            num_train_examples=num_train_examples,
            fitting=data_set.fitting,
            loss_weights=loss_weights,
            given=tuple(dict.fromkeys((*(previous.given if previous else ()), *given))),
            **settings,
        )
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"--{error}") from None


def _take_recipe(name: str, data_set: "DataSet", given, weights) -> Recipe:
    """A recipe as it stands, but for what follows from the weights and the data."""
    number = data_set.splits["train"].num_examples
    chosen = choose_recipe(number) if name == "auto" else RECIPES[name]
    changes = {}
    if weights:
        wanted = {name: given[name] for name in _names(Recipe) if name in given}
        chosen = weights.recipe_for(None if name == "auto" else name, wanted)
        weights.require_mean(chosen, "give a .keras or .safetensors file instead")
        is_new = not weights.has_classes(data_set.num_classes, data_set.class_names)
        changes = fit_fine_tuning(number, is_new, given.get("global_batch_size"))
    elif chosen.name == "small":
        changes = fit_small(number)
    return dataclasses.replace(chosen, **changes)


def weigh_classes(
    wanted: str, split: "Split", class_names: tuple[str, ...]
) -> tuple[float, ...]:
    """What each class's cross-entropy counts in the loss.

    Args:
        wanted: "none"; "balanced", images/(classes·images of the class); or a file.
        split: The training images.
        class_names: The names of the classes.

    Returns:
        Weights whose mean over the training images is 1; empty for "none".

    Raises:
        UserError: The file does not give a weight to each class.
    """
    if wanted == "none":
        return ()
    counts = split.class_counts
    if wanted == "balanced":
        weights = [1 / number if number else 0.0 for number in counts]
    else:
        weights = _read_class_weights(wanted, class_names)
    mean = sum(map(operator.mul, counts, weights)) / split.num_examples
    if not mean:
        raise UserError(f"{wanted}: no class that has images has a weight above 0")
    return tuple(weight / mean for weight in weights)


def _read_class_weights(path: str, class_names: tuple[str, ...]) -> list[float]:
    try:
        values = read_json(path)
        weights = [float(values.pop(name)) for name in class_names]
        if values or not all(0 <= weight < math.inf for weight in weights):
            raise ValueError(values or weights)
        return weights
    except (UserError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"--class_weights={path}: expected balanced, none or a JSON file with a "
            f"number of at least 0 for each class and nothing else, such as "
            f'{{"{class_names[0]}": 1.5, …}}: {error}'
        ) from None


def _names(kind: type) -> list[str]:
    """The settings of a dataclass."""
    return [field.name for field in settings_of(kind)]


def fixed_settings(config: Config) -> dict[str, object]:
    """What a run cannot go on without: the meaning of its weights."""
    settings = (*settings_of(Config), *settings_of(Recipe))
    fixed = {field.name for field in settings if field.metadata["fixed"]}
    fixed |= {"recipe", "class_names"}
    return {name: value for name, value in flat(config).items() if name in fixed}


def flat(config: Config) -> dict[str, object]:
    """All settings by name, those of the recipe too."""
    own = dataclasses.asdict(config)
    recipe, _ = own.pop("recipe"), own.pop("is_finished")
    return {"recipe": recipe.pop("name"), **recipe, **own}
