"""The recipes: every number of the paper, once, with its section.

"Section" is that of Krizhevsky, Sutskever and Hinton, "ImageNet Classification with
Deep Convolutional Neural Networks", NeurIPS 2012. "Source" is the authors' program of
2012, released by the Computer History Museum, and its network #145
(`layers/layers-145.cfg`, `layers/layer-params-145.cfg`).
"""

import dataclasses

# A data set of at least this many training images gets `paper`, a smaller one `small`.
LARGE_DATA_SET = 100_000


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A network and the way to train it. The defaults are the paper's.

    Attributes:
        name: What `--recipe` takes.
        groups: Towers; 2 as in the paper (section 3.2), 1 for a single column.
        image_size: Height and width of the input, pixels (section 4.1: 224).
        lrn_depth_radius: Channels on each side of the one normalised; the paper's
            n = 5 is a radius of 2 (section 3.3).
        lrn_bias: k (section 3.3).
        lrn_alpha: α, multiplies the sum of squares, not their mean (section 3.3).
        lrn_beta: β (section 3.3).
        lrn_within_towers: Whether the channels of one tower do not see the other's.
        lrn1_before_relu: Whether conv1 is normalised before its ReLU, not after.
        spatial_normalization: Whether a 5×5 spatial response normalisation follows the
            second LRN.
        init_stddev: Standard deviation of the initial weights (section 5).
        init_stddev_conv345: The same for conv3, conv4 and conv5.
        bias_init: Initial biases of conv2, conv4, conv5, fc6 and fc7 (section 5); the
            others start at 0.
        dropout_rate: In fc6 and fc7 (section 4.2).
        color: Colour augmentation: "jitter" (brightness, contrast, saturation), "pca"
            (section 4.1) or "none".
        pca_source_2012: Whether "pca" is that of the source: scaled by the root of the
            eigenvalues, the image divided by 1.1.
        color_until_epoch: Where the colour augmentation ends, epochs.
        freeze_conv1_epoch: From where on conv1's weights stay as they are, epochs.
        global_batch_size: Images in a step, over all replicas (section 5).
        learning_rate: Initial rate (section 5).
        momentum: (section 5).
        weight_decay: Multiplies the learning rate and goes through the momentum, as
            the update rule of section 5 has it.
        bias_learning_rate_factor: Multiplies the learning rate of biases.
        decay_biases: Whether weight decay holds for biases too.
        lr_schedule: "plateau", "steps", "cosine", "poly" or "constant".
        lr_drop_epochs: Where "steps" divides the rate by 10, epochs.
        num_epochs: How long to train, epochs (section 5: roughly 90 cycles).
    """

    name: str
    groups: int = 2
    image_size: int = 224
    lrn_depth_radius: int = 2
    lrn_bias: float = 2.0
    lrn_alpha: float = 1e-4
    lrn_beta: float = 0.75
    lrn_within_towers: bool = False
    lrn1_before_relu: bool = False
    spatial_normalization: bool = False
    init_stddev: float = 0.01
    init_stddev_conv345: float = 0.01
    bias_init: float = 1.0
    dropout_rate: float = 0.5
    color: str = "jitter"
    pca_source_2012: bool = False
    color_until_epoch: float | None = None
    freeze_conv1_epoch: float | None = None
    global_batch_size: int = 128
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    bias_learning_rate_factor: float = 1.0
    decay_biases: bool = True
    lr_schedule: str = "plateau"
    lr_drop_epochs: tuple[float, ...] = (25, 51, 79)
    num_epochs: float = 90


RECIPES: dict[str, Recipe] = {
    # The text of the paper.
    "paper": Recipe("paper"),
    # The network behind the paper's numbers, as its source of 2012 has it (#145).
    "original": Recipe(
        "original",
        lrn_alpha=1e-4 / 5,  # the source divides its 1e-4 by the window's size
        lrn_within_towers=True,
        lrn1_before_relu=True,
        spatial_normalization=True,
        init_stddev_conv345=0.03,
        color="pca",
        pca_source_2012=True,
        color_until_epoch=67,
        freeze_conv1_epoch=72,
        bias_learning_rate_factor=2.0,
        decay_biases=False,
        lr_schedule="steps",
        num_epochs=91,
    ),
    # `paper` for thousands of images instead of millions: with the paper's own
    # initialisation conv4 and conv5 hardly depend on the image, and the loss stays at
    # ln(classes) for as long as a small data set lasts.
    "small": Recipe(
        "small",
        init_stddev_conv345=0.03,
        learning_rate=0.001,
        lr_schedule="cosine",
        num_epochs=16,
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
