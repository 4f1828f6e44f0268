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
import collections
import contextlib
import csv
import dataclasses
import functools
import html
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator

from alexnet_tf import command_line, files
from alexnet_tf.command_line import flags
from alexnet_tf.errors import UserError
from alexnet_tf.pictures.decoding import load_rgb, open_picture
from alexnet_tf.pictures.fitting import (
    FITTING_FILE,
    Fitting,
    fit_for_network,
    fit_picture,
)
from alexnet_tf.pictures.listing import pictures_below, shown
from alexnet_tf.settings import CONFIG_FILE

_BAR_CELLS = 20
_SHOWN_SIDE = 384  # longer side, pixels, of what is shown and explained
_LEAST_SURE = 5  # pictures that the summary names
_PAGE_FILE = "predictions.html"
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
    flags.DEFINE_enum(
        "format",
        "text",
        list(_FORMATS),
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
        saved_model: Directory of the SavedModel.
        fitting: How it wants pictures made square.
        names: Paths of pictures; "-" is the standard input.
        page: File of the page to write; None for none.
    """

    saved_model: str
    fitting: Fitting
    names: list[str]
    page: str | None


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a picture shows, or why it is not known.

    Attributes:
        name: Name of the picture.
        image: The picture, RGB of Pillow, for the page; None with an error.
        rows: Classes as (name, class id, probability), the most probable first.
        error: Why there are none; "" where there are.
    """

    name: str
    image: object = None
    rows: tuple[tuple[str, int, float], ...] = ()
    error: str = ""


def check(values: flags.FlagValues, arguments: list[str]) -> Task:
    """Finds the model and the pictures; "-" stands for the standard input."""
    if not arguments:
        raise flags.Error("name pictures or folders, or - for the standard input")
    saved_model, fitting = find_saved_model(values.saved_model)
    if values.explain == "gradcam" and CONFIG_FILE not in list_names(
        values.saved_model
    ):
        raise UserError(
            f"--saved_model={values.saved_model} is an export, which has no gradients: "
            "give the directory of its run, or --explain=occlusion"
        )
    names = []
    for argument in arguments:
        names += pictures_below(argument) if os.path.isdir(argument) else [argument]
    page = values.output_html or (_PAGE_FILE if values.explain else None)
    if page:
        mark = b'content="alexnet_tf predict"'
        files.check_output_file(page, names, what="--output_html", mark=mark)
    return Task(saved_model, fitting, names, page)


def find_saved_model(directory: str) -> tuple[str, Fitting]:
    """The directory of the SavedModel in an export or a run, and how it fits pictures.

    Raises:
        UserError: There is none of ours.
    """
    for candidate in (directory, os.path.join(directory, "saved_model")):
        if "saved_model.pb" in list_names(candidate):
            try:
                path = os.path.join(candidate, FITTING_FILE)
                return candidate, Fitting(**json.loads(files.read_whole(path, 2**16)))
            except (TypeError, ValueError):
                raise UserError(
                    f"{candidate} is an export of another program or version: give a "
                    "directory that export.py of this version wrote"
                ) from None
    raise UserError(
        f"--saved_model={directory} is no SavedModel and no run that has one: give the "
        "directory that export.py wrote"
    )


def predict(
    serve: Callable, fitting: Fitting, names: list[str], batch_size: int, top_k: int
) -> Iterator[Answer]:
    """Classifies pictures, some at a time; yields an `Answer` for each.

    Args:
        serve: The signature `images` of an export.
        fitting: How it wants pictures made square.
        names: Paths of files; "-" is the standard input.
        batch_size: Pictures at a time.
        top_k: Classes of each, at most what the export has.
    """
    import numpy as np
    import tensorflow as tf

    for start in range(0, len(names), batch_size):
        answers, squares = [], []
        for name in names[start : start + batch_size]:
            try:
                image = _open(name, fitting.stored_size)
            except ValueError as error:
                answers.append(Answer(name, error=str(error)))
                continue
            squares.append(np.asarray(fit_picture(image, fitting)))
            image.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
            answers.append(Answer(name, image))
        if squares:
            found = serve(images=tf.constant(np.stack(squares)))
            found = {key: found[key].numpy()[:, :top_k].tolist() for key in found}
        row = 0
        for answer in answers:
            if not answer.error:
                classes = [name.decode() for name in found["classes"][row]]
                columns = classes, found["class_ids"][row], found["probabilities"][row]
                rows = tuple(zip(*columns, strict=True))
                answer, row = dataclasses.replace(answer, rows=rows), row + 1
            yield answer


def _open(name: str, image_size: int):
    if name != "-":
        return open_picture(name, image_size)
    content = files.read_bounded(sys.stdin.buffer, files.MAX_PICTURE_BYTES)
    return load_rgb(content, image_size=image_size)[0]


# What is printed.


def print_text(answers: Iterable[Answer]) -> None:
    """Prints names and bars."""
    for answer in answers:
        if answer.error:
            continue
        print(shown(answer.name))
        names = [shown(name) for name, _, _ in answer.rows]
        width = max(map(len, names))
        for name, (_, _, probability) in zip(names, answer.rows, strict=True):
            eighths = round(probability * _BAR_CELLS * 8)
            bar = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8]
            print(f"  {name:{width}}  {bar:{_BAR_CELLS + 1}} {probability:6.1%}")


def print_json(answers: Iterable[Answer]) -> None:
    """Prints a list of objects, one a line."""
    separator = "["
    keys = ("class", "class_id", "probability")
    for answer in answers:
        rows = [dict(zip(keys, row, strict=True)) for row in answer.rows]
        result = {"error": answer.error} if answer.error else {"predictions": rows}
        line = json.dumps({"picture": answer.name} | result)
        print(f"{separator}\n{line}", end="")
        separator = ","
    print("\n]")


def print_csv(answers: Iterable[Answer]) -> None:
    """Prints a row for each picture and class."""
    _print_row("picture", "rank", "class", "class_id", "probability")
    for answer in answers:
        for rank, row in enumerate(answer.rows, 1):
            _print_row(answer.name, rank, *row)


def print_wide(answers: Iterable[Answer], top_k: int) -> None:
    """Prints a row for each picture, also where there is an error."""
    ranks = range(1, top_k + 1)
    columns = [f"{key}_{rank}" for rank in ranks for key in ("class", "probability")]
    _print_row("picture", "error", *columns)
    for answer in answers:
        cells = [cell for name, _, number in answer.rows for cell in (name, number)]
        cells += [""] * (len(columns) - len(cells))
        _print_row(answer.name, answer.error, *cells)


def _print_row(*cells) -> None:
    """A row in which no spreadsheet finds a formula, nor a terminal an order."""
    texts = (files.format_cell(c) if isinstance(c, str) else c for c in cells)
    csv.writer(sys.stdout, lineterminator="\n").writerow(texts)


def summarize(answers: list[Answer]) -> str:
    """How many pictures show each class, and of which the network is least sure."""
    best = [(*answer.rows[0], answer.name) for answer in answers if answer.rows]
    counts = collections.Counter(name for name, *_ in best).most_common()
    lines = [
        f"{len(best):,} pictures: "
        + ", ".join(f"{shown(name)} {number:,}" for name, number in counts)
    ]
    lines.append("least sure:")
    for name, _, probability, picture in sorted(best, key=lambda row: row[2])[
        :_LEAST_SURE
    ]:
        lines.append(f"  {probability:6.1%} {shown(name)}: {shown(picture)}")
    return "\n".join(lines)


# What is shown.


def show_where(serve: Callable, image, row: tuple, batch_size: int):
    """Shows where a picture shows a class, by hiding one part after another.

    Args:
        serve: The signature `images` of an export.
        image: Picture of Pillow, RGB.
        row: The class, as `Answer.rows` has it.
        batch_size: Pictures at a time.

    Returns:
        The picture, coloured where hiding it costs; what that means, in words.
    """
    import numpy as np
    import tensorflow as tf
    from PIL import Image

    from alexnet_tf.evaluation import explaining

    name, class_id, _ = row

    def classify(images):
        answer = serve(images=tf.constant(images))
        found = answer["class_ids"].numpy() == class_id
        values = answer["probabilities"].numpy()
        # Where the class is not among those answered: at most as probable as the last.
        return np.where(found.any(1), (values * found).sum(1), values[:, -1])

    pixels, points = explaining.show_occlusion(classify, np.asarray(image), batch_size)
    return Image.fromarray(pixels), (
        f"In colour: what {name} depends on. By how much its probability falls where "
        f"a part is hidden: {points} (yellow: 50 points)."
    )


def show_gradcam(model, fitting: Fitting, image, row: tuple):
    """Shows what of a picture raises a class, by Grad-CAM; see `show_where`.

    Args:
        model: The network of the run.
        fitting: How it wants pictures made square.
        image: Picture of Pillow, RGB.
        row: The class, as `Answer.rows` has it.
    """
    from PIL import Image

    from alexnet_tf.evaluation import explaining

    name, class_id, _ = row
    square = fit_for_network(image, fitting, model.input_shape[1])
    (pixels,) = explaining.show_gradcam(model, square[None], [class_id])
    return Image.fromarray(pixels), (
        f"In colour: what raises {name} in the run's latest checkpoint (Grad-CAM; "
        "yellow: the most in this picture)."
    )


def format_figure(answer: Answer, look: Callable | None = None) -> str:
    """A picture and its classes in HTML.

    Args:
        answer: From `predict`.
        look: From the picture and the first class to what `show_where` returns.
    """
    images = _format_image(answer.image, "")
    caption = html.escape(shown(answer.name)) + "".join(
        f"<br><meter value={probability:.4f}></meter> {probability:.1%} "
        f"{html.escape(name)}"
        for name, _, probability in answer.rows
    )
    if look:
        overlay, meaning = look(answer.image, answer.rows[0])
        images += _format_image(overlay, "Where the model looks")
        caption += f"<p>{html.escape(meaning)}</p>"
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
    print(f"page: {path}", file=sys.stderr)


def main(values: flags.FlagValues, task: Task) -> int:
    """Predicts as the flags say."""
    import tensorflow as tf
    from tqdm import tqdm

    warnings.simplefilter("ignore")  # Pillow's remarks on odd files
    model = tf.saved_model.load(for_tensorflow(task.saved_model))
    serve = model.signatures["images"]
    top_k = min(values.top_k, serve.structured_outputs["class_ids"].shape[1])
    look = None
    if values.explain == "occlusion":
        look = functools.partial(show_where, serve, batch_size=values.batch_size)
    elif values.explain:
        from alexnet_tf.weights.loading import load_network

        network = load_network(values.saved_model)
        look = functools.partial(show_gradcam, network.model, task.fitting)
    done, total = [], len(task.names)
    is_short = total <= values.batch_size and not look

    def watch(bar, write) -> Iterator[Answer]:
        answers = predict(serve, task.fitting, task.names, values.batch_size, top_k)
        for answer in answers:
            bar.update()
            bar.clear()
            if task.page and not answer.error:
                write(format_figure(answer, look))
            done.append(dataclasses.replace(answer, image=None, rows=answer.rows[:1]))
            yield answer

    progress = tqdm(
        total=total, unit=" pictures", leave=False, disable=is_short or None
    )
    with progress as bar, open_page(task.page) as write:
        if values.format == "wide":
            print_wide(watch(bar, write), top_k)
        else:
            _FORMATS[values.format](watch(bar, write))
    errors = [f"  {shown(a.name)}: {a.error}" for a in done if a.error]
    if total - len(errors) > 1:
        print(summarize(done), file=sys.stderr)
    if errors:
        lines = [f"error: {len(errors)} of {total} not read:", *errors]
        print(*lines, sep="\n", file=sys.stderr)
    return 1 if errors else 0


_FORMATS = {
    "text": print_text,
    "json": print_json,
    "csv": print_csv,
    "wide": print_wide,
}

if __name__ == "__main__":
    command_line.run(main, define_flags, check)
