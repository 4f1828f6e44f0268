"""Classifies pictures with an exported model.

python predict.py --saved_model=runs/demo/saved_model PICTURE… FOLDER…

Prints the most probable classes of every picture: of files, of those in folders and
below, and, for "-", of a picture on the standard input. Goes on past what cannot be
read; then the exit code is 1.
"""

from alexnet_tf import signals

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

from alexnet_tf import command_line
from alexnet_tf.command_line import flags
from alexnet_tf.errors import UserError

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
_BAR_CELLS = 20
_PAGE = """<!DOCTYPE html>
<meta charset="utf-8"><title>Predictions</title>
<style>
body { font: 14px sans-serif; display: flex; flex-wrap: wrap; gap: 16px }
figure { margin: 0; width: 224px; overflow-wrap: anywhere }
meter { width: 64px }
</style>
"""


def define_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_string("saved_model", None, "Directory of the export.", required=True)
    flags.DEFINE_enum("format", "text", ["text", "json", "csv"], "What to print.")
    flags.DEFINE_integer(
        "top_k", 5, "Classes to print, at most what the export has.", lower_bound=1
    )
    flags.DEFINE_string("output_html", None, "Writes a page of pictures and classes.")
    flags.DEFINE_integer("batch_size", 32, "Pictures at a time.", lower_bound=1)


def find_pictures(values: flags.FlagValues, arguments: list[str]) -> list[str]:
    """The pictures that the arguments name; "-" stands for the standard input."""
    if not arguments:
        raise flags.Error("name pictures or folders, or - for the standard input")
    if not os.path.exists(os.path.join(values.saved_model, "saved_model.pb")):
        raise UserError(
            f"--saved_model={values.saved_model} is no SavedModel: give the directory "
            "that export.py wrote"
        )
    if values.output_html:
        folder = os.path.dirname(os.path.abspath(values.output_html))
        if not os.path.isdir(folder):
            raise UserError(f"--output_html: there is no folder {folder}")
    found = []
    for argument in arguments:
        if not os.path.isdir(argument):
            found.append(argument)
            continue
        inside = [
            os.path.join(folder, name)
            for folder, _, names in os.walk(argument)
            for name in names
            if name.lower().endswith(PICTURE_SUFFIXES)
        ]
        if not inside:
            raise UserError(
                f"no pictures in {argument} (looked for {', '.join(PICTURE_SUFFIXES)})"
            )
        found += sorted(inside)
    return found


@dataclasses.dataclass(frozen=True)
class Result:
    """What a picture shows: (class, class id, probability), or why it is not known."""

    name: str
    image_bytes: bytes
    predictions: list[tuple[str, int, float]]
    error: str | None = None


def predict(
    classify: Callable, names: list[str], batch_size: int, top_k: int
) -> Iterator[Result]:
    """Classifies pictures, some at a time.

    Args:
        classify: The signature `serving_default` of an export.
        names: Of files; "-" is the standard input.
        batch_size: Pictures at a time.
        top_k: Classes of each, at most what the export has.
    """
    for start in range(0, len(names), batch_size):
        results = [_read(name) for name in names[start : start + batch_size]]
        readable = [result for result in results if not result.error]
        try:
            answers = _classify(classify, readable, top_k)
        except ValueError:  # one fails all: find out which
            answers = []
            for result in readable:
                try:
                    answers += _classify(classify, [result], top_k)
                except ValueError as error:
                    answers.append(dataclasses.replace(result, error=str(error)))
        answers = iter(answers)
        for result in results:
            yield result if result.error else next(answers)


def _read(name: str) -> Result:
    try:
        if name == "-":
            return Result(name, sys.stdin.buffer.read(), [])
        with open(name, "rb") as file:
            return Result(name, file.read(), [])
    except OSError as error:
        return Result(name, b"", [], error.strerror)


def _classify(classify: Callable, pictures: list[Result], top_k: int) -> list[Result]:
    import tensorflow as tf

    if not pictures:
        return []
    image_bytes = tf.constant([picture.image_bytes for picture in pictures])
    try:
        answer = classify(image_bytes=image_bytes)
    except tf.errors.OpError as error:
        lines = str(error).split("<stack traces unavailable>\n")[-1].splitlines()
        raise ValueError(lines[0]) from None
    keys = ("classes", "class_ids", "probabilities")
    columns = [answer[key].numpy()[:, :top_k].tolist() for key in keys]
    results = []
    for picture, names, ids, probabilities in zip(pictures, *columns, strict=True):
        if ids[0] < 0:
            error = "not a picture, or larger than the model takes"
            results.append(dataclasses.replace(picture, error=error))
            continue
        names = [name.decode() for name in names]
        predictions = list(zip(names, ids, probabilities, strict=True))
        results.append(dataclasses.replace(picture, predictions=predictions))
    return results


def print_text(results: Iterable[Result]) -> None:
    """Prints names and bars."""
    for result in results:
        if result.error:
            continue
        print(result.name)
        width = max(len(name) for name, _, _ in result.predictions)
        for name, _, probability in result.predictions:
            eighths = round(probability * _BAR_CELLS * 8)
            bar = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8]
            print(f"  {name:{width}}  {bar:{_BAR_CELLS + 1}} {probability:6.1%}")


def print_json(results: Iterable[Result]) -> None:
    """Prints a list of objects, one a line."""
    separator = "["
    for result in results:
        if result.error:
            said = {"error": result.error}
        else:
            keys = ("class", "class_id", "probability")
            said = {
                "predictions": [
                    dict(zip(keys, row, strict=True)) for row in result.predictions
                ]
            }
        print(f"{separator}\n{json.dumps({'picture': result.name} | said)}", end="")
        separator = ","
    print("\n]")


def print_csv(results: Iterable[Result]) -> None:
    """Prints a row for each picture and class."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["picture", "rank", "class", "class_id", "probability"])
    for result in results:
        for rank, row in enumerate(result.predictions, 1):
            writer.writerow([result.name, rank, *row])


def format_figure(result: Result) -> str:
    """A picture and its classes in HTML."""
    from PIL import Image

    source = ""
    with contextlib.suppress(Exception):  # what only TensorFlow can read has no picture
        image = Image.open(io.BytesIO(result.image_bytes))
        image.thumbnail((224, 224))
        thumbnail = io.BytesIO()
        image.convert("RGB").save(thumbnail, "JPEG")
        source = base64.b64encode(thumbnail.getvalue()).decode()
    lines = "".join(
        f"<br><meter value={probability:.4f}></meter> {probability:.1%} "
        f"{html.escape(name)}"
        for name, _, probability in result.predictions
    )
    caption = html.escape(result.name) + lines
    return (
        f'<figure><img src="data:image/jpeg;base64,{source}" alt="">'
        f"<figcaption>{caption}</figcaption></figure>\n"
    )


def main(values: flags.FlagValues, pictures: list[str]) -> int:
    """Predicts as the flags say."""
    import tensorflow as tf
    from tqdm import tqdm

    model = tf.saved_model.load(values.saved_model)
    classify = model.signatures["serving_default"]
    sys.stdout.reconfigure(errors="backslashreplace")  # file names may be anything
    print_results = {"text": print_text, "json": print_json, "csv": print_csv}
    errors = []
    with contextlib.ExitStack() as stack:
        page = None
        if values.output_html:
            page = stack.enter_context(
                open(values.output_html, "w", encoding="utf-8", errors="replace")
            )
            page.write(_PAGE)
        few = len(pictures) <= values.batch_size
        bar = stack.enter_context(
            tqdm(
                total=len(pictures), unit=" pictures", leave=False, disable=few or None
            )
        )

        def watch() -> Iterator[Result]:
            for result in predict(classify, pictures, values.batch_size, values.top_k):
                bar.update()
                bar.clear()
                if result.error:
                    errors.append(f"  {result.name}: {result.error}")
                elif page:
                    page.write(format_figure(result))
                yield result

        print_results[values.format](watch())
    if errors:
        lines = [f"error: {len(errors)} of {len(pictures)} not read:", *errors]
        print(*lines, sep="\n", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    command_line.run(main, define_flags, find_pictures)
