"""What pictures show: as text and bars, JSON, CSV, and figures of a page."""

import base64
import collections
import csv
import dataclasses
import html
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence

from PIL import Image

from alexnet_tf.errors import escape
from alexnet_tf.files import format_cell

PAGE_MARK = 'content="alexnet_tf predict"'
PAGE_HEAD = f"""<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Predictions</title>
<meta name="generator" {PAGE_MARK}>
<meta name="viewport" content="width=device-width">
<style>
body {{ font: 14px sans-serif; display: flex; flex-wrap: wrap; gap: 16px }}
figure {{ margin: 0; width: 224px; overflow-wrap: anywhere }}
img {{ max-width: 100% }}
meter {{ width: 64px }}
p {{ color: #555; margin: 4px 0 }}
</style>
"""
_BAR_CELLS = 20
_LEAST_SURE = 5  # pictures that the summary names


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a picture shows, or why it is not known.

    Attributes:
        path: The file; "" for a picture that is none.
        classes: Names and probabilities, 0..1, the most probable first; empty where
            there is an error.
        error: Why the picture could not be used; None where it could.
        class_ids: Numbers of the classes, in the same order.
    """

    path: str
    classes: list[tuple[str, float]] = dataclasses.field(default_factory=list)
    error: str | None = None
    class_ids: list[int] = dataclasses.field(default_factory=list)

    def rows(self) -> Iterator[tuple[str, int, float]]:
        """Yields name, number and probability of each class."""
        for class_id, (name, probability) in zip(
            self.class_ids, self.classes, strict=True
        ):
            yield name, class_id, probability


def print_text(predictions: Iterable[Prediction], _: int) -> None:
    """Prints names and bars."""
    for prediction in predictions:
        if prediction.error:
            continue
        print(escape(prediction.path))
        names = [escape(name) for name, _ in prediction.classes]
        width = max(map(len, names))
        for name, (_, probability) in zip(names, prediction.classes, strict=True):
            eighths = round(probability * _BAR_CELLS * 8)
            bar = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8]
            print(f"  {name:{width}}  {bar:{_BAR_CELLS + 1}} {probability:6.1%}")


def print_json(predictions: Iterable[Prediction], _: int) -> None:
    """Prints a list of objects, one a line."""
    separator = "["
    keys = ("class", "class_id", "probability")
    for prediction in predictions:
        result = {"picture": prediction.path}
        if prediction.error:
            result["error"] = prediction.error
        else:
            rows = prediction.rows()
            result["predictions"] = [dict(zip(keys, row, strict=True)) for row in rows]
        print(f"{separator}\n{json.dumps(result)}", end="")
        separator = ","
    print("\n]")


def print_csv(predictions: Iterable[Prediction], _: int) -> None:
    """Prints a row for each picture and class."""
    _print_row("picture", "rank", "class", "class_id", "probability")
    for prediction in predictions:
        for rank, row in enumerate(prediction.rows(), 1):
            _print_row(prediction.path, rank, *row)


def print_wide(predictions: Iterable[Prediction], top_k: int) -> None:
    """Prints a row for each picture, also where there is an error."""
    ranks = range(1, top_k + 1)
    columns = [f"{key}_{rank}" for rank in ranks for key in ("class", "probability")]
    _print_row("picture", "error", *columns)
    for prediction in predictions:
        cells = [cell for pair in prediction.classes for cell in pair]
        cells += [""] * (len(columns) - len(cells))
        _print_row(prediction.path, prediction.error or "", *cells)


FORMATS = {
    "text": print_text,
    "json": print_json,
    "csv": print_csv,
    "wide": print_wide,
}


def _print_row(*cells) -> None:
    """A row in which no spreadsheet finds a formula, nor a terminal an order."""
    texts = (format_cell(c) if isinstance(c, str) else c for c in cells)
    csv.writer(sys.stdout, lineterminator="\n").writerow(texts)


def summarize(predictions: Sequence[Prediction]) -> list[str]:
    """Returns lines: counts of the classes, the least sure pictures, the errors."""
    best = [(p.classes[0], p.path) for p in predictions if not p.error]
    errors = [f"  {escape(p.path)}: {p.error}" for p in predictions if p.error]
    lines = []
    if len(best) > 1:
        counts = collections.Counter(name for (name, _), _ in best).most_common()
        counted = ", ".join(f"{escape(name)} {number:,}" for name, number in counts)
        lines += [f"{len(best):,} pictures: {counted}", "least sure:"]
        for (name, p), path in sorted(best, key=lambda row: row[0][1])[:_LEAST_SURE]:
            lines.append(f"  {p:6.1%} {escape(name)}: {escape(path)}")
    if errors:
        lines += [f"error: {len(errors)} of {len(predictions)} not read:", *errors]
    return lines


def format_figure(
    prediction: Prediction,
    image: Image.Image,
    overlay: Image.Image | None = None,
    meaning: str = "",
) -> str:
    """A picture and its classes in HTML.

    Args:
        prediction: What it shows.
        image: The picture.
        overlay: The same, coloured where the network looks.
        meaning: What the colours mean.
    """
    images = _format_image(image, "")
    caption = html.escape(escape(prediction.path)) + "".join(
        f"<br><meter value={probability:.4f}></meter> {probability:.1%} "
        f"{html.escape(name)}"
        for name, probability in prediction.classes
    )
    if overlay:
        images += _format_image(overlay, "Where the model looks")
        caption += f"<p>{html.escape(meaning)}</p>"
    return f"<figure>{images}<figcaption>{caption}</figcaption></figure>\n"


def _format_image(image: Image.Image, description: str) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    source = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{source}" alt="{description}">'
