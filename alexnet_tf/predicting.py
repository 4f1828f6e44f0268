"""Classifies picture files with an export: prints what they show, and writes a page."""

import contextlib
import dataclasses
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image
from tqdm import tqdm

from alexnet_tf import files, predictions
from alexnet_tf.classifier import predict_each
from alexnet_tf.evaluation import explaining
from alexnet_tf.exported import ExportedModel, pick_class
from alexnet_tf.pictures.decoding import open_picture
from alexnet_tf.pictures.fitting import fit_for_network
from alexnet_tf.predictions import Prediction
from alexnet_tf.weights.loading import load_network

_SHOWN_SIDE = 384  # longer side, pixels, of what is shown and explained


def predict_files(
    saved_model: str,
    names: Sequence[str],
    *,
    format: str = "text",
    top_k: int = 5,
    batch_size: int = 32,
    page: str | None = None,
    explain: str | None = None,
) -> bool:
    """Says what pictures show; goes on past what cannot be read.

    Args:
        saved_model: Directory of an export, or of a run that has one.
        names: Paths of pictures; "-" is the standard input.
        format: What to print, one of `predictions.FORMATS`.
        top_k: How many classes, at most what the export has.
        batch_size: Pictures at a time.
        page: File of a page to write, with pictures and their classes.
        explain: "occlusion" or "gradcam", to show in the page where the network looks;
            the second needs a run.

    Returns:
        Whether all of them were read.
    """
    warnings.simplefilter("ignore")  # Pillow's remarks on odd files
    model = ExportedModel(saved_model)
    top_k, size = min(top_k, model.top_k), model.fitting.stored_size
    pictures = [_read_input() if name == "-" else name for name in names]
    found = predict_each(
        pictures,
        lambda images: model.classify(images, top_k),
        *(model.fitting, size, batch_size),
    )
    look = _make_look(model, saved_model, explain, batch_size)
    done: list[Prediction] = []

    def watch(bar: tqdm, write: Callable) -> Iterator[Prediction]:
        for name, picture, prediction in zip(names, pictures, found, strict=True):
            prediction = dataclasses.replace(prediction, path=name)
            done.append(prediction)
            bar.update()
            bar.clear()
            if page and not prediction.error:
                image = open_picture(picture, size)
                image.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
                where = look(image, prediction) if look else ()
                write(predictions.format_figure(prediction, image, *where))
            yield prediction

    is_short = len(names) <= batch_size and not explain
    bar = tqdm(
        total=len(names), unit=" pictures", leave=False, disable=is_short or None
    )
    with bar, _open_page(page) as write:
        predictions.FORMATS[format](watch(bar, write), top_k)
    for line in predictions.summarize(done):
        print(line, file=sys.stderr)
    return not any(prediction.error for prediction in done)


def _read_input() -> bytes:
    return files.read_bounded(sys.stdin.buffer, files.MAX_PICTURE_BYTES)


def _make_look(
    model: ExportedModel, saved_model: str, explain: str | None, batch_size: int
) -> Callable | None:
    """From a picture and what it shows to an overlay, and what that means in words."""

    def hide_parts(image: Image.Image, prediction: Prediction):
        class_id, (name, _) = prediction.class_ids[0], prediction.classes[0]
        pixels, points = explaining.show_occlusion(
            lambda images: pick_class(model.run("images", images), class_id),
            *(np.asarray(image), batch_size),
        )
        return Image.fromarray(pixels), (
            f"In colour: what {name} depends on. By how much its probability falls "
            f"where a part is hidden: {points} (yellow: 50 points)."
        )

    def weigh_maps(image: Image.Image, prediction: Prediction):
        class_id, (name, _) = prediction.class_ids[0], prediction.classes[0]
        square = fit_for_network(image, model.fitting, network.input_shape[1])
        (pixels,) = explaining.show_gradcam(network, square[None], [class_id])
        return Image.fromarray(pixels), (
            f"In colour: what raises {name} in the run's latest checkpoint (Grad-CAM; "
            "yellow: the most in this picture)."
        )

    if explain != "gradcam":
        return hide_parts if explain else None
    network = load_network(saved_model).model
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
