"""The recipes: the numbers of the paper and of the published networks that people vary.

"Section" is that of Krizhevsky, Sutskever and Hinton, "ImageNet Classification with
Deep Convolutional Neural Networks", NeurIPS 2012. "Source" is the authors' program of
2012, released by the Computer History Museum, and its network #145
(`layers/layers-145.cfg`, `layers/layer-params-145.cfg`), trained on ILSVRC-2012.

A field is also a flag of train.py: its name, type, default, choices and help stand here
alone.
"""

import dataclasses
import difflib
from collections.abc import Iterable

from alexnet_tf.settings import check, expert_setting, setting, settings_of

# Those with weights, in their order.
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")

# A data set of at least this many training images gets `paper`, a smaller one `small`.
LARGE_DATA_SET = 100_000

# How `small` trains, by the batch: the images from which on it is taken, the rate, and
# the steps that training takes at least.
SMALL_BATCHES = {
    128: (4000, 0.005, 400),
    64: (1000, 0.005, 400),
    32: (250, 0.002, 700),
    16: (0, 0.001, 1000),
}
SMALL_MAX_EPOCHS = 100.0  # each ends in a validation and a checkpoint


def _network(default, help, **limits):
    """A setting without which the weights of a run mean something else."""
    return expert_setting(default, help, fixed=True, **limits)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A network and the way to train it. The defaults are the paper's.

    Epochs are those done: the 26th epoch begins at 25.
    """

    name: str

    # The network.
    image_size: int = _network(
        224,
        "The height and width of the input, pixels (section 4.1).",
        lower_bound=1,
        upper_bound=1024,
    )
    groups: int = setting(
        2,
        "The number of towers: 2 as in section 3.2, or 1.",
        fixed=True,
        choices=(1, 2),
    )
    filters: tuple[int, ...] = _network(
        (96, 256, 384, 384, 256),
        "The numbers of filters of conv1 to conv5 (section 3.5).",
        length=5,
        lower_bound=1,
        upper_bound=2**16,
    )
    width: float = setting(
        1.0,
        "Multiplies the channels of every layer.",
        fixed=True,
        lower_bound=1e-3,
        upper_bound=4.0,
    )
    conv1_padding: tuple[int, ...] = _network(
        (0, 3),
        "Zeros that are added before and after the input, pixels.",
        length=2,
        lower_bound=0,
        upper_bound=64,
    )
    activation: str = _network(
        "relu",
        "The activation of every hidden layer (section 3.1).",
        choices=("relu", "tanh"),
    )
    lrn: bool = _network(
        True, "Normalise the responses of conv1 and conv2 (section 3.3)."
    )
    lrn_depth_radius: int = _network(
        2,
        "How many channels on each side normalise a channel; 2 is the paper's n = 5.",
        lower_bound=0,
    )
    lrn_bias: float = _network(2.0, "The k of section 3.3.", lower_bound=1e-6)
    lrn_alpha: float = _network(
        1e-4, "The α of section 3.3. It multiplies the sum of squares, not their mean."
    )
    lrn_beta: float = _network(0.75, "The β of section 3.3.")
    lrn_within_towers: bool = _network(
        False, "Normalise a tower's channels without the other tower's."
    )
    lrn1_before_relu: bool = _network(
        False, "Normalise and pool conv1 before its ReLU."
    )
    lrn_after_pool: bool = _network(
        False, "Normalise after the pooling, not before it."
    )
    spatial_normalization: bool = _network(
        False, "Normalise over 5×5 pixels, too, after the second LRN."
    )
    pool_size: int = _network(
        3, "The window of the pooling, whose stride is 2 (section 3.4).", choices=(2, 3)
    )
    dropout: str = setting(
        "mask",
        "mask drops units in training and multiplies all of them by 1 - rate at test "
        "time (section 4.2). inverted, Keras' form, divides those that are kept by "
        "1 - rate in training.",
        fixed=True,
        choices=("mask", "inverted"),
        remark="; --dropout_rate takes a number",
    )
    dropout_rate: float = setting(
        0.5,
        "The share of units that are dropped at fc6 and fc7 (section 4.2).",
        fixed=True,
        lower_bound=0.0,
        upper_bound=0.99,
    )
    dropout_before: bool = _network(
        False, "Drop units before fc6 and fc7, not after them."
    )

    # What the network does to RGB pixels 0..255 first.
    mean: str = _network(
        "image",
        "image subtracts the mean of each pixel (section 2), color one mean colour.",
        choices=("image", "color"),
    )
    mean_color: tuple[float, ...] | None = _network(
        None,
        "A colour, RGB in 0..255, to subtract instead of the training images' mean.",
        length=3,
    )
    input_stddev: tuple[float, ...] = _network(
        (1.0, 1.0, 1.0),
        "Numbers that divide each channel, RGB, after the mean is subtracted.",
        length=3,
        lower_bound=1e-6,
    )
    bgr: bool = _network(False, "Turn the channels to blue, green, red.")

    # Initial weights (section 5).
    init: str = expert_setting(
        "normal",
        "normal draws weights from N(0, stddev) and has constant biases. fan_in draws "
        "both from U(±1/√fan_in).",
        choices=("normal", "fan_in"),
    )
    init_stddev: float = expert_setting(
        0.01, "The standard deviation of the initial weights.", lower_bound=0.0
    )
    init_stddev_conv345: float | None = expert_setting(
        None, "The initial deviation in conv3 to conv5, if another.", lower_bound=0.0
    )
    init_stddev_fc67: float | None = expert_setting(
        None, "The initial deviation in fc6 and fc7, if another.", lower_bound=0.0
    )
    bias_init: float = expert_setting(
        1.0, "The initial biases of conv2, conv4, conv5, fc6 and fc7. The others are 0."
    )

    # The training images (section 4.1).
    # How a published network's own pictures were made square; no settings, since what
    # training sees was made square by data.prepare.
    fit: str = "crop"
    resampling: str = "bicubic"
    random_crops: bool = expert_setting(
        True, "Train on random crops, else on the centre."
    )
    mirror: bool = expert_setting(
        True, "Turn half of the training images left to right."
    )
    color: str = setting(
        "jitter",
        "The colour changes. jitter changes brightness, contrast and saturation, "
        "pca is that of section 4.1.",
        choices=("jitter", "pca", "none"),
    )
    pca_source_2012: bool = expert_setting(
        False,
        "Change colours as the source of 2012 does: by the roots of the eigenvalues, "
        "with the image divided by 1.1.",
    )
    color_until_epoch: float | None = expert_setting(
        None, "The epoch at which the colour changes end."
    )

    # The update (section 5).
    global_batch_size: int = setting(
        128, "The number of images in a step, on all replicas together.", lower_bound=1
    )
    num_epochs: float = setting(
        90.0, "The number of epochs to train.", lower_bound=1e-9
    )
    learning_rate: float = setting(0.01, "The initial learning rate.", lower_bound=0.0)
    scale_lr: bool = expert_setting(
        False, "Multiply the rate by global_batch_size / 128 (Goyal et al. 2017)."
    )
    lr_schedule: str = setting(
        "plateau",
        "plateau divides the rate by 10 when the validation error stops improving, "
        "steps does at --lr_drop_epochs. cosine and poly end at 0. constant stays.",
        choices=("plateau", "steps", "cosine", "poly", "constant"),
    )
    lr_drop_epochs: tuple[float, ...] = expert_setting(
        (25.0, 51.0, 79.0),
        "The epochs at which the schedule steps divides the rate by 10.",
    )
    warmup_epochs: float = expert_setting(
        0.0,
        "The number of epochs in which the rate grows to its initial value.",
        lower_bound=0.0,
    )
    optimizer: str = setting(
        "momentum",
        "momentum is the paper's update. lars is for large batches, and brings "
        "scale_lr, the schedule poly and 5 epochs of warm-up.",
        choices=("momentum", "lars"),
    )
    momentum: float = setting(
        0.9, "The momentum of the update.", lower_bound=0.0, upper_bound=1.0
    )
    weight_decay: float = setting(
        5e-4,
        "The decay of the weights. It is multiplied by the rate and goes through the "
        "momentum, as section 5 has it.",
        lower_bound=0.0,
    )
    decay_biases: bool = expert_setting(True, "Decay the biases, too.")
    rate_in_momentum: bool = expert_setting(
        True,
        "Multiply by the rate what enters the velocity, as the paper and Caffe do, "
        "else the velocity, as PyTorch does.",
    )
    bias_learning_rate_factor: float = expert_setting(
        1.0, "A number that multiplies the initial rate of biases.", lower_bound=0.0
    )
    biases_follow_schedule: bool = expert_setting(
        True, "Change the rate of biases as that of the weights."
    )
    head_learning_rate_factor: float = expert_setting(
        1.0,
        "A number that multiplies the rate of fc8; 10 if --init_weights leaves it new.",
        lower_bound=0.0,
    )
    freeze: tuple[str, ...] | None = setting(
        None,
        "The layers that stay as they are, such as conv1,conv2,conv3.",
        choices=LAYERS,
    )
    conv1_drop_epoch: float | None = expert_setting(
        None,
        "The epoch at which the rate of conv1's weights is divided by 10 once more.",
    )
    conv1_stop_epoch: float | None = expert_setting(
        None, "The epoch from which on conv1 stays as it is."
    )

    def __post_init__(self):
        check(self)
        if set(self.freeze or ()) == set(LAYERS):
            raise ValueError("freeze must leave a layer to train")
        if self.image_size < self.least_image_size:
            raise ValueError(
                f"image_size must be at least {self.least_image_size} in the recipe "
                f"{self.name}, received {self.image_size}"
            )

    @property
    def least_image_size(self) -> int:
        """Height and width, pixels, of the least images of which pool5 leaves a value.

        Read backwards: pool5, pool2 and pool1 with a stride of 2, conv1 with 11×11 and
        4.
        """
        side = 1
        for _ in range(3):
            side = 2 * (side - 1) + self.pool_size
        return 4 * (side - 1) + 11 - sum(self.conv1_padding)

    @property
    def initial_rate(self) -> float:
        """The rate that the schedule starts from."""
        scale = self.global_batch_size / 128 if self.scale_lr else 1.0
        return self.learning_rate * scale


# What goes with the optimizer for large batches.
LARS_SETTINGS = {"scale_lr": True, "lr_schedule": "poly", "warmup_epochs": 5.0}

# How a run trains that starts from weights: a tenth of the usual rate, and 10 times
# that for a new fc8, as Caffe's finetune_flickr_style has it; its schedule has steps.
FINE_TUNING = {
    "optimizer": "momentum",
    "learning_rate": 0.001,
    "scale_lr": False,
    "lr_schedule": "cosine",
    "warmup_epochs": 0.0,
    "biases_follow_schedule": True,
    "freeze": None,
}
NEW_HEAD_FACTOR = 10.0
FINE_TUNING_EPOCHS = 10.0
FINE_TUNING_STEPS = 300  # at least, where pictures are few

_CAFFE = {
    "image_size": 227,
    "conv1_padding": (0, 0),
    "lrn_bias": 1.0,
    "lrn_alpha": 1e-4 / 5,  # Caffe divides alpha by the window
    "dropout": "inverted",
    "mean": "color",
    "mean_color": (123.0, 117.0, 104.0),
    "bgr": True,
    "init_stddev_fc67": 0.005,
    "fit": "warp",
    "resampling": "opencv",
    "color": "none",
    "global_batch_size": 256,
    "lr_schedule": "steps",
    "lr_drop_epochs": (20.0, 40.0, 60.0, 80.0),
    "bias_learning_rate_factor": 2.0,
    "decay_biases": False,
}

RECIPES: dict[str, Recipe] = {
    # The text of the paper, with the colour changes of this project; the paper's own
    # are --color=pca.
    "paper": Recipe("paper"),
    # The network behind the paper's numbers, as its source of 2012 has it (#145). The
    # source's log counts epochs from 1: its 67th begins when 66 are done.
    "original": Recipe(
        "original",
        lrn_alpha=1e-4 / 5,  # the source divides its 1e-4 by the window's size
        lrn_within_towers=True,
        lrn1_before_relu=True,
        spatial_normalization=True,
        init_stddev_conv345=0.03,
        color="pca",
        pca_source_2012=True,
        color_until_epoch=66.0,
        bias_learning_rate_factor=2.0,
        biases_follow_schedule=False,
        decay_biases=False,
        lr_schedule="steps",
        conv1_drop_epoch=66.0,
        conv1_stop_epoch=71.0,
        num_epochs=91.0,
    ),
    # `paper` for hundreds and thousands of images: the source's initial weights let the
    # image through to conv5 from the start, and half the rate is reached in two epochs.
    # One colour is subtracted: where the pictures of a set lie alike, their mean has
    # edges, which every random crop would see at other places of the picture.
    "small": Recipe(
        "small",
        mean="color",
        init_stddev_conv345=0.03,
        learning_rate=0.005,
        warmup_epochs=2.0,
        lr_schedule="cosine",
        num_epochs=16.0,
    ),
    # Networks whose weights others published. BVLC/caffe models/bvlc_alexnet:
    "bvlc": Recipe("bvlc", bias_init=0.1, **_CAFFE),
    # BVLC/caffe models/bvlc_reference_caffenet:
    "caffenet": Recipe("caffenet", lrn_after_pool=True, **_CAFFE),
    # torchvision models/alexnet.py, after "One weird trick" (Krizhevsky 2014).
    "torchvision": Recipe(
        "torchvision",
        groups=1,
        filters=(64, 192, 384, 256, 256),
        conv1_padding=(2, 2),
        lrn=False,
        dropout="inverted",
        dropout_before=True,
        mean="color",
        mean_color=(123.675, 116.28, 103.53),  # .485, .456, .406 of 255
        input_stddev=(58.395, 57.12, 57.375),  # .229, .224, .225 of 255
        init="fan_in",
        color="none",
        global_batch_size=256,
        lr_schedule="steps",
        lr_drop_epochs=(30.0, 60.0),
        weight_decay=1e-4,
        resampling="bilinear",
        rate_in_momentum=False,  # torch.optim.SGD
    ),
}


def choose_recipe(num_train_examples: int) -> Recipe:
    """Returns the recipe that `--recipe=auto` stands for.

    Args:
        num_train_examples: Images in the training split.

    Returns:
        `paper` from `LARGE_DATA_SET` images on, else `small`.
    """
    name = "paper" if num_train_examples >= LARGE_DATA_SET else "small"
    return RECIPES[name]


def fit_small(num_train_examples: int) -> dict[str, object]:
    """Returns what `small` takes by the number of images.

    Fewer images take a smaller batch of `SMALL_BATCHES`, so that there are steps enough
    in the same time. Training takes the recipe's own epochs or, where its steps are
    fewer than the batch needs, more of them: up to `SMALL_MAX_EPOCHS`.

    Args:
        num_train_examples: Images in the training split.

    Returns:
        Values by the names of fields of `Recipe`.
    """
    batch = _fit_batch(num_train_examples)
    _, rate, steps = SMALL_BATCHES[batch]
    own = RECIPES["small"].num_epochs
    return {
        "global_batch_size": batch,
        "num_epochs": _fit_epochs(own, steps * batch, num_train_examples),
        "learning_rate": rate,
    }


def fit_fine_tuning(
    num_train_examples: int, is_head_new: bool, batch: int | None = None
) -> dict[str, object]:
    """Returns what a run takes that starts from weights.

    Args:
        num_train_examples: Images in the training split.
        is_head_new: Whether fc8 starts anew, for other classes.
        batch: The batch, where it is given; else as that of `small`.

    Returns:
        Values by the names of fields of `Recipe`.
    """
    batch = batch or _fit_batch(num_train_examples)
    images = FINE_TUNING_STEPS * batch
    return FINE_TUNING | {
        "global_batch_size": batch,
        "num_epochs": _fit_epochs(FINE_TUNING_EPOCHS, images, num_train_examples),
        "head_learning_rate_factor": NEW_HEAD_FACTOR if is_head_new else 1.0,
    }


def _fit_batch(num_train_examples: int) -> int:
    return next(
        batch
        for batch, (least, _, _) in SMALL_BATCHES.items()
        if num_train_examples >= least
    )


def _fit_epochs(own: float, images: int, num_train_examples: int) -> float:
    """A recipe's own epochs, or so many that training sees enough images."""
    return max(own, min(float(-(-images // num_train_examples)), SMALL_MAX_EPOCHS))


def check_fields(fields: Iterable[str]) -> None:
    """Checks names of fields of `Recipe`.

    Raises:
        TypeError: If there is no such field.
    """
    known = {field.name for field in settings_of(Recipe)}
    if unknown := [name for name in fields if name not in known]:
        near = difflib.get_close_matches(unknown[0], known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise TypeError(f"a recipe has no field {unknown[0]!r}{hint}")


def network_fields(recipe: Recipe) -> dict[str, object]:
    """The settings of a recipe without which its weights mean something else.

    The share that dropout drops is one of them where it matters at test time.
    """
    free = set() if recipe.dropout == "mask" else {"dropout_rate"}
    return {
        field.name: getattr(recipe, field.name)
        for field in settings_of(Recipe)
        if field.metadata["fixed"] and field.name not in free
    }
