"""Classifies pictures with an exported model.

python predict.py --saved_model=runs/demo PICTURE… FOLDER…

Prints the most probable classes of every picture: of files, of those in folders and
below, and, for "-", of a picture on the standard input. Goes on past what cannot be
read; then the exit code is 1.
"""

from alexnet_tf import signals

if __name__ == "__main__":  # from here on a signal ends it in one line
    signals.handle()

import contextlib
import dataclasses
import os
import sys
import warnings
from collections.abc import Callable, Iterator

from alexnet_tf import command_line, files, predictions
from alexnet_tf.command_line import flags
from alexnet_tf.errors import UserError
from alexnet_tf.paths import list_names
from alexnet_tf.pictures.decoding import open_picture
from alexnet_tf.pictures.fitting import find_saved_model, fit_for_network
from alexnet_tf.pictures.listing import pictures_below
from alexnet_tf.predictions import Prediction
from alexnet_tf.settings import CONFIG_FILE

_SHOWN_SIDE = 384  # longer side, pixels, of what is shown and explained
_PAGE_FILE = "predictions.html"


def define_flags() -> None:
    """Defines the flags."""
    command_line.define_path(
        "saved_model",
        None,
        "Directory of the export, or of a run that has one.",
        exists=True,
        required=True,
    )
    flags.DEFINE_enum(
        "format",
        "text",
        list(predictions.FORMATS),
        "What to print: csv has a row for each picture and class, wide a row for each "
        "picture.",
    )
    flags.DEFINE_integer(
        "top_k", 5, "Classes to print, at most what the export has.", lower_bound=1
    )
    command_line.define_path(
        "output_html", None, "Writes a page of pictures and classes."
    )
    command_line.define_choice(
        "explain",
        ["occlusion", "gradcam"],
        "Show in the page where the network looks. --explain hides one part of a "
        "picture after another, which is slow; --explain=gradcam needs a run as "
        f"--saved_model. The page is {_PAGE_FILE} unless --output_html names it.",
    )
    flags.DEFINE_integer(
        "batch_size", 32, "Pictures at a time.", lower_bound=1, upper_bound=64
    )


@dataclasses.dataclass(frozen=True)
class Task:
    """What is to be done.

    Attributes:
        names: Paths of pictures; "-" is the standard input.
        page: File of the page to write; None for none.
    """

    names: list[str]
    page: str | None


def check(values: flags.FlagValues, arguments: list[str]) -> Task:
    """Finds the model and the pictures; "-" stands for the standard input."""
    if not arguments:
        raise flags.Error("name pictures or folders, or - for the standard input")
    find_saved_model(values.saved_model)
    is_run = CONFIG_FILE in list_names(values.saved_model)
    if values.explain == "gradcam" and not is_run:
        raise UserError(
            f"--saved_model={values.saved_model} is an export, which has no gradients: "
            "give the directory of its run, or --explain=occlusion"
        )
    names = []
    for argument in map(os.path.expanduser, arguments):
        names += pictures_below(argument) if os.path.isdir(argument) else [argument]
    page = values.output_html or (_PAGE_FILE if values.explain else None)
    if page:
        mark = predictions.PAGE_MARK.encode()
        files.check_output_file(page, names, what="--output_html", mark=mark)
    return Task(names, page)


def main(values: flags.FlagValues, task: Task) -> int:
    """Predicts as the flags say."""
    from tqdm import tqdm

    from alexnet_tf.classifier import predict_each
    from alexnet_tf.exported import ExportedModel

    warnings.simplefilter("ignore")  # Pillow's remarks on odd files
    model = ExportedModel(values.saved_model)
    top_k = min(values.top_k, model.top_k)

    def classify(images):
        answer = model.run("images", images)
        for row in range(len(images)):
            names = [name.decode() for name in answer["classes"][row, :top_k]]
            numbers = answer["class_ids"][row], answer["probabilities"][row]
            yield names, *(array[:top_k].tolist() for array in numbers)

    pictures = [_read_input() if name == "-" else name for name in task.names]
    size, batch_size = model.fitting.stored_size, values.batch_size
    found = predict_each(pictures, classify, model.fitting, size, batch_size)
    look = _make_look(model, values)
    done = []

    def watch(bar, write) -> Iterator[Prediction]:
        for name, picture, prediction in zip(task.names, pictures, found, strict=True):
            prediction = dataclasses.replace(prediction, path=name)
            done.append(prediction)
            bar.update()
            bar.clear()
            if task.page and not prediction.error:
                image = open_picture(picture, size)
                image.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
                where = look(image, prediction) if look else ()
                write(predictions.format_figure(prediction, image, *where))
            yield prediction

    total = len(pictures)
    is_short = total <= batch_size and not values.explain
    bar = tqdm(total=total, unit=" pictures", leave=False, disable=is_short or None)
    with bar, _open_page(task.page) as write:
        predictions.FORMATS[values.format](watch(bar, write), top_k)
    for line in predictions.summarize(done):
        print(line, file=sys.stderr)
    return int(any(prediction.error for prediction in done))


def _read_input() -> bytes:
    return files.read_bounded(sys.stdin.buffer, files.MAX_PICTURE_BYTES)


def _make_look(model, values: flags.FlagValues) -> Callable | None:
    """From a picture and what it shows to an overlay, and what that means in words."""
    import numpy as np
    from PIL import Image

    from alexnet_tf.evaluation import explaining
    from alexnet_tf.exported import pick_class

    def hide_parts(image, prediction: Prediction):
        class_id, (name, _) = prediction.class_ids[0], prediction.classes[0]
        pixels, points = explaining.show_occlusion(
            lambda images: pick_class(model.run("images", images), class_id),
            *(np.asarray(image), values.batch_size),
        )
        return Image.fromarray(pixels), (
            f"In colour: what {name} depends on. By how much its probability falls "
            f"where a part is hidden: {points} (yellow: 50 points)."
        )

    def weigh_maps(image, prediction: Prediction):
        class_id, (name, _) = prediction.class_ids[0], prediction.classes[0]
        square = fit_for_network(image, model.fitting, network.input_shape[1])
        (pixels,) = explaining.show_gradcam(network, square[None], [class_id])
        return Image.fromarray(pixels), (
            f"In colour: what raises {name} in the run's latest checkpoint (Grad-CAM; "
            "yellow: the most in this picture)."
        )

    if values.explain != "gradcam":
        return hide_parts if values.explain else None
    from alexnet_tf.weights.loading import load_network

    network = load_network(values.saved_model).model
    return weigh_maps


@contextlib.contextmanager
def _open_page(path: str | None) -> Iterator[Callable[[str], object]]:
    """Opens a page, and gives what writes to it; nothing for None."""
    if not path:
        yield lambda text: None
        return
    with files.writing(path) as page:
        page.write(predictions.PAGE_HEAD)
        yield page.write
    print(f"page: {path}", file=sys.stderr)


if __name__ == "__main__":
    command_line.run(main, define_flags, check)
