"""Classifies pictures with an exported model.

python predict.py --saved_model=runs/demo PICTURE… FOLDER…

Prints the most probable classes of every picture: of files, of those in folders and
below, and, for "-", of a picture on the standard input. Goes on past what cannot be
read; then the exit code is 1.
"""

from alexnet_tf import signals
from alexnet_tf.paths import for_tensorflow, list_names

if __name__ == "__main__":  # from here on a signal ends it in one line
    signals.handle()

import base64
import contextlib
import csv
import dataclasses
import html
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator

from alexnet_tf import command_line, files
from alexnet_tf.command_line import flags
from alexnet_tf.errors import UserError
from alexnet_tf.pictures.asking import Asked, ask, load
from alexnet_tf.pictures.listing import pictures_below, shown

_BAR_CELLS = 20
_SHOWN_SIDE = 384  # longer side, pixels, of what is shown and explained
_PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Predictions</title>
<meta name="generator" content="alexnet_tf predict">
<meta name="viewport" content="width=device-width">
<style>
body { font: 14px sans-serif; display: flex; flex-wrap: wrap; gap: 16px }
figure { margin: 0; width: 224px; overflow-wrap: anywhere }
img { max-width: 100% }
meter { width: 64px }
p { color: #555; margin: 4px 0 }
</style>
"""


def define_flags() -> None:
    """Defines the flags."""
    command_line.define_path(
        "saved_model",
        None,
        "Directory of the export, or of a run that has one.",
        exists=True,
        required=True,
    )
    flags.DEFINE_enum("format", "text", ["text", "json", "csv"], "What to print.")
    flags.DEFINE_integer(
        "top_k", 5, "Classes to print, at most what the export has.", lower_bound=1
    )
    command_line.define_path(
        "output_html", None, "Writes a page of pictures and classes."
    )
    flags.DEFINE_bool(
        "explain", False, "Show in the page where the network looks (slow)."
    )
    flags.DEFINE_integer(
        "batch_size", 32, "Pictures at a time.", lower_bound=1, upper_bound=64
    )


@dataclasses.dataclass(frozen=True)
class Task:
    """What is to be done: the directory of the SavedModel, the names of pictures."""

    saved_model: str
    names: list[str]


def check(values: flags.FlagValues, arguments: list[str]) -> Task:
    """Finds the model and the pictures; "-" stands for the standard input."""
    if not arguments:
        raise flags.Error("name pictures or folders, or - for the standard input")
    if values.explain and not values.output_html:
        raise flags.Error("--explain shows its pictures in a page: give --output_html")
    saved_model = find_saved_model(values.saved_model)
    names = []
    for argument in arguments:
        names += pictures_below(argument) if os.path.isdir(argument) else [argument]
    if values.output_html:
        files.check_output(
            values.output_html,
            names,
            what="--output_html",
            kind="file",
            mark=b'content="alexnet_tf predict"',
        )
    return Task(saved_model, names)


def find_saved_model(directory: str) -> str:
    """The directory of the SavedModel in an export or a run."""
    for candidate in (directory, os.path.join(directory, "saved_model")):
        if "saved_model.pb" in list_names(candidate):
            return candidate
    raise UserError(
        f"--saved_model={directory} is no SavedModel and no run that has one: give the "
        "directory that export.py wrote"
    )


def predict(
    classify: Callable, names: list[str], batch_size: int, top_k: int
) -> Iterator[Asked]:
    """Classifies pictures, some at a time.

    Args:
        classify: The signature `serving_default` of an export.
        names: Of files; "-" is the standard input.
        batch_size: Pictures at a time.
        top_k: Classes of each, at most what the export has.

    Yields:
        What each shows, a list of (class, class id, probability), or why it is not
        known.
    """

    def answer(pictures: list[bytes]) -> Iterator[list | None]:
        import tensorflow as tf

        found = classify(image_bytes=tf.constant(pictures))
        keys = ("classes", "class_ids", "probabilities")
        columns = [found[key].numpy()[:, :top_k].tolist() for key in keys]
        for classes, ids, probabilities in zip(*columns, strict=True):
            classes = [name.decode() for name in classes]
            rows = list(zip(classes, ids, probabilities, strict=True))
            yield rows if ids[0] >= 0 else None

    for start in range(0, len(names), batch_size):
        yield from ask(names[start : start + batch_size], answer)


# What is printed.


def print_text(asked: Iterable[Asked]) -> None:
    """Prints names and bars."""
    for picture in asked:
        if picture.error:
            continue
        print(shown(picture.name))
        names = [shown(name) for name, _, _ in picture.answer]
        width = max(map(len, names))
        for name, (_, _, probability) in zip(names, picture.answer, strict=True):
            eighths = round(probability * _BAR_CELLS * 8)
            bar = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8]
            print(f"  {name:{width}}  {bar:{_BAR_CELLS + 1}} {probability:6.1%}")


def print_json(asked: Iterable[Asked]) -> None:
    """Prints a list of objects, one a line."""
    separator = "["
    keys = ("class", "class_id", "probability")
    for picture in asked:
        rows = [dict(zip(keys, row, strict=True)) for row in picture.answer or ()]
        error = picture.error
        answer = {"error": error} if error else {"predictions": rows}
        line = json.dumps({"picture": picture.name} | answer)
        print(f"{separator}\n{line}", end="")
        separator = ","
    print("\n]")


def print_csv(asked: Iterable[Asked]) -> None:
    """Prints a row for each picture and class."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["picture", "rank", "class", "class_id", "probability"])
    for picture in asked:
        for rank, (name, *numbers) in enumerate(picture.answer or (), 1):
            cells = files.format_cell(picture.name), rank, files.format_cell(name)
            writer.writerow([*cells, *numbers])


# What is shown.


def show_where(serve: Callable, image, class_id: int, batch_size: int):
    """Shows where a picture shows a class (`alexnet_tf.evaluation.explaining`).

    Args:
        serve: The signature `images` of an export.
        image: Picture of Pillow, RGB.
        class_id: The class.
        batch_size: Pictures at a time.

    Returns:
        The picture, coloured where hiding it costs; how much it costs, in words.
    """
    import numpy as np
    import tensorflow as tf
    from PIL import Image

    from alexnet_tf.evaluation import explaining

    def classify(images):
        answer = serve(images=tf.constant(images))
        found = answer["class_ids"].numpy() == class_id
        values = answer["probabilities"].numpy()
        # Where the class is not among those answered: at most as probable as the last.
        return np.where(found.any(1), (values * found).sum(1), values[:, -1])

    pixels = np.asarray(image)
    falls = explaining.measure_falls(classify, pixels, batch_size)
    shares = explaining.to_shares(falls, pixels.shape[:2])
    overlay = Image.fromarray(explaining.overlay(pixels, shares))
    return overlay, explaining.describe_falls(falls)


def format_figure(picture: Asked, look: Callable | None = None) -> str:
    """A picture and its classes in HTML.

    Args:
        picture: From `predict`.
        look: From the picture and a class to what `show_where` returns.
    """
    try:
        image = load(picture.content)
        image.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
    except ValueError:  # what only the model can read has no picture
        image, look = None, None
    images = _format_image(image, "") if image else ""
    caption = html.escape(shown(picture.name)) + "".join(
        f"<br><meter value={probability:.4f}></meter> {probability:.1%} "
        f"{html.escape(name)}"
        for name, _, probability in picture.answer
    )
    if look:
        name, class_id, _ = picture.answer[0]
        overlay, cost = look(image, class_id)
        images += _format_image(overlay, "Where the model looks")
        caption += (
            f"<p>In colour: what {html.escape(name)} depends on. By how much its "
            f"probability falls where a part is hidden: {cost} (yellow: 50 points).</p>"
        )
    return f"<figure>{images}<figcaption>{caption}</figcaption></figure>\n"


def _format_image(image, description: str) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    source = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{source}" alt="{description}">'


@contextlib.contextmanager
def open_page(path: str | None) -> Iterator[Callable[[str], object]]:
    """Opens a page, and gives what writes to it; nothing for None."""
    if not path:
        yield lambda text: None
        return
    with files.writing(path) as page:
        page.write(_PAGE)
        yield page.write


def main(values: flags.FlagValues, task: Task) -> int:
    """Predicts as the flags say."""
    import tensorflow as tf
    from tqdm import tqdm

    model = tf.saved_model.load(for_tensorflow(task.saved_model))
    classify = model.signatures.get("serving_default")
    if not classify or "image_bytes" not in classify.structured_input_signature[1]:
        raise UserError(
            f"{task.saved_model} is an export of another program: give the directory "
            "that export.py wrote"
        )
    look = None
    if values.explain:

        def look(image, class_id):
            serve = model.signatures["images"]
            return show_where(serve, image, class_id, values.batch_size)

    errors, total = [], len(task.names)
    is_short = total <= values.batch_size and not look

    def watch(bar, write) -> Iterator[Asked]:
        for asked in predict(classify, task.names, values.batch_size, values.top_k):
            bar.update()
            bar.clear()
            if asked.error:
                errors.append(f"  {shown(asked.name)}: {asked.error}")
            elif values.output_html:
                write(format_figure(asked, look))
            yield asked

    progress = tqdm(
        total=total, unit=" pictures", leave=False, disable=is_short or None
    )
    print_predictions = {"text": print_text, "json": print_json, "csv": print_csv}
    with progress as bar, open_page(values.output_html) as write:
        print_predictions[values.format](watch(bar, write))
    if errors:
        lines = [f"error: {len(errors)} of {total} not read:", *errors]
        print(*lines, sep="\n", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    command_line.run(main, define_flags, check)
