"""From any picture file to a stored picture, in worker processes without TensorFlow."""

import dataclasses
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image

from alexnet_tf.pictures.decoding import load_rgb
from alexnet_tf.pictures.fitting import FITS, RESAMPLINGS, Fitting, fit_picture
from alexnet_tf.settings import check, expert_setting, setting
from data.held_out import content_digest, split_of
from data.source import Item


@dataclasses.dataclass(frozen=True)
class Options:
    """What decides the data set that is made of some pictures; its card keeps it."""

    image_size: int = setting(256, "Side of the stored square, pixels.", lower_bound=8)
    fit: str = setting(
        "crop",
        "crop: scale the shorter side, cut out the centre (section 2 of the paper); "
        "pad: keep the whole picture, enlarge none, and pad it with its mean colour; "
        "warp: scale both sides, as Caffe does.",
        choices=FITS,
    )
    resampling: str = expert_setting(
        "bicubic",
        "How pictures are scaled: bicubic, as most programs do; bilinear, as "
        "torchvision's networks want it; opencv, as Caffe's networks want it.",
        choices=RESAMPLINGS,
    )
    encoding: str = setting(
        "jpeg",
        "jpeg stores JPEG pictures, raw the pixels themselves.",
        choices=("jpeg", "raw"),
    )
    quality: int = setting(
        95, "The quality of JPEG, 1 to 100.", lower_bound=1, upper_bound=100
    )
    validation_fraction: float = setting(
        0.1,
        "The part of each class, or of the groups, that is held out where there is no "
        "validation split.",
        lower_bound=0,
        upper_bound=0.9,
    )
    num_shards: int | None = setting(
        None,
        "The number of shards of a split. By default there are so many that each has "
        "64 MiB or more.",
        lower_bound=1,
        upper_bound=99_999,
    )
    max_errors: int = setting(
        100,
        "How many pictures may be unusable. More of them stop the preparation.",
        lower_bound=0,
    )
    seed: int = setting(0, "The seed of the order on disk.")

    def __post_init__(self):
        check(self)

    @property
    def fitting(self) -> Fitting:
        """How pictures are made square."""
        return Fitting(self.fit, self.image_size, self.resampling)


class Record(NamedTuple):
    """What became of one item.

    Attributes:
        name: The item's.
        label: The item's.
        split: The item's, or "validation" where it is held out.
        digest: 20 bytes, the hash of the picture file.
        image: What is stored: JPEG bytes, or the bytes of the pixels; b"" if rejected.
        num_bytes: Their number.
        conversions: What had to be converted ("CMYK", "grey", "PNG named .jpg", …).
        rejected: Why the picture cannot be used; "" if it can.
    """

    name: str
    label: int
    split: str
    digest: bytes
    image: bytes = b""
    num_bytes: int = 0
    conversions: tuple[str, ...] = ()
    rejected: str = ""


def transcode(
    items: Sequence[Item],
    options: Options,
    thresholds: Mapping[int | None, int],
    num_classes: int = 2**31,
) -> list[Record]:
    """Turns picture files into stored pictures, none of them fatal.

    Args:
        items: The pictures.
        options: How to store them.
        thresholds: What `find_thresholds` found; {} where nothing is held out.
        num_classes: Pictures with a label outside 0..num_classes-1 are rejected.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on odd EXIF data
        return [_transcode(item, options, thresholds, num_classes) for item in items]


def _transcode(item: Item, options: Options, thresholds, num_classes: int) -> Record:
    record = Record(item.name, item.label, item.split, b"")
    if not 0 <= item.label < num_classes:
        reason = f"its label {item.label} is none of 0..{num_classes - 1}"
        return record._replace(rejected=reason)
    try:
        content = item.read()
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        return record._replace(rejected=reason)
    digest = content_digest(content)
    record = record._replace(digest=digest, split=split_of(item, digest, thresholds))
    try:
        image, conversions = load_rgb(content, item.name, options.image_size)
    except ValueError as error:
        return record._replace(rejected=str(error))
    image = fit_picture(image, options.fitting)
    is_raw = options.encoding == "raw"
    stored = image.tobytes() if is_raw else to_jpeg(image, options.quality)
    return record._replace(
        image=stored, num_bytes=len(stored), conversions=tuple(conversions)
    )


def to_jpeg(image: Image.Image, quality: int) -> bytes:
    """Encodes a picture as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
