"""How a picture of any size is made square."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Fitting:
    """How pictures of any size become those of a data set.

    Attributes:
        fit: "crop" scales the shorter side and keeps the centre, "pad" shrinks the
            picture onto a square of its mean colour, "warp" scales both sides alone.
        stored_size: Height and width of the square, pixels.
        resampling: How it is scaled: "bicubic" or "bilinear".
    """

    fit: str = "crop"
    stored_size: int = 256
    resampling: str = "bicubic"
