"""A page about an evaluation: one HTML file without links, and its charts as PNG.

`write_report` is the page from top to bottom; each function below it adds a section.
"""

import base64
import dataclasses
import functools
import html
import io
import os
import string
from collections.abc import Iterable, Sequence

import keras
import numpy as np
from PIL import Image
from tqdm import tqdm

from alexnet_tf.errors import escape
from alexnet_tf.evaluation import explaining, figures, mosaics
from alexnet_tf.evaluation.results import (
    Evaluation,
    Predictions,
    read_names,
    tabulate_classes,
)
from alexnet_tf.evaluation.stuck import describe_stuck, is_stuck
from alexnet_tf.files import writing
from alexnet_tf.metrics_file import read_records
from alexnet_tf.pipeline.batches import evaluation_batches, read_pictures
from alexnet_tf.pipeline.data_set import DataSet
from alexnet_tf.run import run_of
from alexnet_tf.weights.loading import Loaded

POOL = 4096  # pictures of a split, at most, that are compared with others
_BATCH = 128
_TABLE_CLASSES = 50  # of the table of classes; of more, the worst
_SAME = 0.998  # correlation of two thumbnails from which pictures are nearly the same
_EXAMPLES = 4  # right answers, and wrong ones, that are shown
_NAMED = 5  # pairs of such pictures that are named
_TEMPLATE = os.path.join(os.path.dirname(__file__), "report.html")


@dataclasses.dataclass(frozen=True)
class Subject:
    """What the page is about.

    Attributes:
        evaluation: The errors.
        facts: What `eval.json` holds.
        data_set: What was evaluated.
        network: The network, or the first of several.
    """

    evaluation: Evaluation
    facts: dict
    data_set: DataSet
    network: Loaded

    @property
    def predictions(self) -> Predictions:
        """What was answered."""
        return self.evaluation.predictions

    @property
    def image_size(self) -> int:
        """Height and width of the network's input, pixels."""
        return self.network.model.input_shape[1]

    def name(self, class_id: int) -> str:
        """The name of a class, as a page can show it."""
        return mosaics.shorten(self.data_set.class_names[class_id])

    @functools.cached_property
    def examples(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of some answers drawn at random, first the right ones; pictures."""
        predictions, split = self.predictions, self.evaluation.split
        order = np.random.default_rng(0).permutation(len(predictions.labels))
        is_right = predictions.ranks[order] == 0
        parts = order[is_right][:_EXAMPLES], order[~is_right][:_EXAMPLES]
        rows = np.concatenate(parts)
        positions, size = predictions.positions[rows], self.image_size
        return rows, read_pictures(self.data_set, split, positions, size)


def write_report(directory: str, subject: Subject) -> None:
    """Writes `index.html` and the charts."""
    sections = [_add_summary, _add_curves, _add_classes, _add_confusion]
    sections += [_add_calibration, _add_answers, _add_kernels]
    train = subject.data_set.splits.get("train")
    if train and train.num_examples and subject.evaluation.split != "train":
        sections += [_add_neighbours, _add_copies]
    page = Page(directory)
    for add in tqdm([*sections, _add_facts], desc="report", leave=False, disable=None):
        add(page, subject)
    page.write(f"AlexNet on {subject.data_set.name}")


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture in a row of others.

    Attributes:
        image: uint8 RGB `(height, width, 3)`.
        caption: The text below it.
        style: Classes of report.html: "right" and "wrong" are frames that differ in
            form, so that no colour is needed to tell them apart; "large".
        bars: Probabilities, names, and whether they are of the picture's own class.
    """

    image: np.ndarray
    caption: str = ""
    style: str = ""
    bars: Sequence[tuple[float, str, bool]] = ()


class Page:
    """Collects the parts of the page."""

    def __init__(self, directory: str):
        self._directory, self._parts, self._titles = directory, [], []

    def section(self, title: str, style: str = "") -> None:
        """Begins a section: half as wide as a desktop, "wide" or "tall"."""
        start = "</section>" if self._titles else "<main>"
        self._titles.append(title)
        start += f'<section id="s{len(self._titles)}" class="{style}">'
        self._parts.append(f"{start}<h2>{html.escape(title)}</h2>")

    def text(self, text: str, style: str = "") -> None:
        """Adds a paragraph."""
        self._parts.append(f'<p class="{style}">{html.escape(text)}</p>')

    def table(self, rows: Iterable[Sequence[object]], columns: Sequence = ()) -> None:
        """Adds a table; the first column holds the heads of the rows."""
        lines = []
        if columns:
            heads = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
            lines.append(f"<tr>{heads}</tr>")
        for head, *cells in rows:
            cells = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
            lines.append(f"<tr><th>{html.escape(str(head))}</th>{cells}</tr>")
        table = "\n".join(lines)
        kind = "numbers" if columns else "facts"
        table = f'<table class="{kind}">{table}</table>'
        self._parts.append(f'<div class="scroll">{table}</div>')

    def figure(self, name: str, figure, caption: str = "") -> None:
        """Adds a matplotlib figure or uint8 pixels, and writes `name`.png, too."""
        png = mosaics.encode_png(figure)
        with writing(os.path.join(self._directory, name + ".png"), "wb") as file:
            file.write(png)
        width = int.from_bytes(png[16:20])
        if not isinstance(figure, np.ndarray):
            width //= 2  # figures have two pixels for each of the page's
        image = _format_image(png, "png", caption or name.replace("_", " "), width)
        caption = html.escape(caption)
        self._parts.append(
            f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
        )

    def row(self, pictures: Iterable[Picture]) -> None:
        """Adds pictures beside each other."""
        self._parts.append(f'<div class="row">{"".join(map(_format, pictures))}</div>')

    def write(self, title: str) -> None:
        """Writes the page, with a table of contents."""
        with open(_TEMPLATE, encoding="utf-8") as file:
            template = string.Template(file.read())
        links = (
            f'<li><a href="#s{number}">{html.escape(text)}</a></li>'
            for number, text in enumerate(self._titles, 1)
        )
        end = "</section></main>" if self._titles else ""
        page = template.substitute(
            title=html.escape(escape(title)),
            contents="".join(links),
            body="\n".join([*self._parts, end]),
        )
        with writing(os.path.join(self._directory, "index.html")) as file:
            file.write(page)


def _format(picture: Picture) -> str:
    file = io.BytesIO()
    Image.fromarray(picture.image).save(file, "JPEG", quality=90)
    text = html.escape(picture.caption)
    for share, name, is_own in picture.bars:
        bar = f"{share:.0%} {html.escape(name)}"
        bar = f"<b>{bar}</b>" if is_own else bar
        text += f'<span class="bar" style="--share:{share:.0%}">{bar}</span>'
    image = _format_image(file.getvalue(), "jpeg", picture.caption or "picture")
    return (
        f'<figure class="{picture.style}">{image}<figcaption>{text}</figcaption>'
        "</figure>"
    )


def _format_image(content: bytes, kind: str, alt: str, width: int | str = "") -> str:
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return f'<img src="{source}" width="{width}" alt="{html.escape(alt)}">'


def _add_summary(page: Page, subject: Subject) -> None:
    evaluation, facts = subject.evaluation, subject.facts
    balanced, largest = evaluation.balanced_accuracy, evaluation.largest_class
    page.text(
        f"{1 - evaluation.top_1_error:.1%} right, {balanced:.1%} balanced", "headline"
    )
    low, high = facts["top_1_error_interval"]
    text = (
        f"Top-1 accuracy on {evaluation.num_evaluated:,} of {evaluation.num_examples:,}"
        f" images of the split {evaluation.split}; 95 % interval {1 - high:.1%} to "
        f"{1 - low:.1%}. Always answering the largest class would be right in "
        f"{largest:.1%}. Balanced accuracy, the mean of the classes' own, is "
        f"{balanced:.1%}, macro-F1 {evaluation.macro_f1:.1%}."
    )
    if len(subject.data_set.class_names) > 5:
        text += f" Top-5 accuracy is {1 - evaluation.top_5_error:.1%}."
    answers = np.bincount(subject.predictions.answers)
    share = answers.max() / evaluation.num_evaluated
    if share > 0.9 and largest < 1:
        name = subject.name(answers.argmax())
        text += f" The network answers {name} to {share:.0%} of the images."
    if len(facts["sha256"]) > 1:
        text += " Where it looks, kernels and features are of the first network."
    page.text(text)
    path, config = subject.network.path, subject.network.config
    if run_of(path) and is_stuck(subject.predictions, config.loss_weights):
        page.text(describe_stuck(evaluation, config))


def _add_curves(page: Page, subject: Subject) -> None:
    run, _ = run_of(subject.network.path) or (None, None)
    if run and (records := read_records(run.metrics_file)):
        page.section("How it learnt", "tall")
        curves = {"": [figures.Curve("validation", "", records)]}
        largest = subject.evaluation.largest_class
        page.figure("learning_curves", figures.draw_curves(curves, largest))


def _add_classes(page: Page, subject: Subject) -> None:
    table = tabulate_classes(subject.evaluation, subject.data_set.class_names)
    page.section("Every class")
    order = np.argsort(table["f1"], kind="stable")  # those without examples last
    if len(order) > _TABLE_CLASSES:
        page.text("The 20 with the lowest F1; all of them are in per_class.csv.")
        order = order[:20]
    shares = ("precision", "recall", "f1")
    rows = (
        (
            subject.name(i),
            table["examples"][i],
            *("–" if np.isnan(table[k][i]) else f"{table[k][i]:.0%}" for k in shares),
            mosaics.shorten(table["most_often_taken_for"][i]),
        )
        for i in order
    )
    heads = ("class", "images", "precision", "recall", "F1", "most often taken for")
    page.table(rows, heads)


def _add_confusion(page: Page, subject: Subject) -> None:
    names = subject.data_set.class_names
    if len(names) <= figures.MAX_CLASSES:
        page.section("What it takes for what", "wide" if len(names) > 25 else "")
        confusion = subject.predictions.confusion(len(names))
        page.figure("confusion_matrix", figures.draw_confusion(confusion, names))


def _add_calibration(page: Page, subject: Subject) -> None:
    predictions = subject.predictions
    page.section("Are the probabilities right?")
    confidences = predictions.top_probabilities[:, 0]
    bins = figures.bin_by_confidence(confidences, predictions.ranks == 0)
    page.text(
        f"The answers in {len(bins)} groups of about {bins[0, 2]:.0f}, from the least "
        "to the most certain. Where the network is certain in 80 %, it should be right "
        "in 80 %: on the broken line. The bars are 95 % intervals."
    )
    page.figure("reliability", figures.draw_reliability(bins))


def _add_answers(page: Page, subject: Subject) -> None:
    """For each picture the answers, and where it shows the first of them."""
    predictions, model = subject.predictions, subject.network.model
    page.section("What it answers, and where it looks (Figure 4)", "wide")
    page.text(
        "Some right answers and some wrong ones, drawn at random. In the middle, "
        "squares of 64 pixels hid one part after another: the colour is by how many "
        "percentage points the probability of the answer fell (Zeiler and Fergus 2014, "
        "section 4.2). The scale is the same for all pictures:"
    )
    page.row(Picture(*step) for step in explaining.draw_scale())
    page.text(
        "On the right, Grad-CAM: the maps of conv5, each by its influence on the "
        "answer (Selvaraju et al. 2017). There yellow is each picture's largest value."
    )
    rows, images = subject.examples
    answers = predictions.answers[rows]
    relative = explaining.show_gradcam(model, images, answers)
    for i, (row, image, answer) in enumerate(zip(rows, images, answers, strict=True)):
        label = predictions.labels[row]
        style = "large right" if label == answer else "large wrong"
        top = zip(
            predictions.top_ids[row], predictions.top_probabilities[row], strict=True
        )
        bars = [(p, subject.name(other), other == label) for other, p in top]
        absolute, points = explaining.show_occlusion(
            lambda x, answer=answer: explaining.classify(model, x)[:, answer], image
        )
        page.row(
            [
                Picture(image, subject.name(label), style, bars),
                Picture(absolute, points, "large"),
                Picture(relative[i], f"as {subject.name(answer)}", "large"),
            ]
        )


def _add_kernels(page: Page, subject: Subject) -> None:
    page.section("First-layer kernels (Figure 3)")
    page.text(
        "The paper's network has learnt edges of all directions in one tower and "
        "colours in the other, from 90 epochs of 1.2 million pictures. After a short "
        "training the kernels still look like the noise that they began as."
    )
    page.figure("kernels", mosaics.draw_layer(subject.network.model, "conv1"))


def _add_neighbours(page: Page, subject: Subject) -> None:
    """For each picture the training pictures that are nearest to it in fc7."""
    rows, images = subject.examples
    model = subject.network.model
    pool, nearest, labels = find_neighbours(model, subject.data_set, images)
    page.section("Nearest training pictures (Figure 4, right)", "wide")
    page.text(
        "The large picture is one from above; after it come the nearest to it by "
        f"distance in what fc7 puts out, of {pool:,} training pictures. A whole blue "
        "frame: of the same class; a broken orange one: of another."
    )
    for i, label in enumerate(subject.predictions.labels[rows]):
        others = [
            Picture(image, subject.name(other), "right" if other == label else "wrong")
            for image, other in zip(nearest[i], labels[i], strict=True)
        ]
        page.row([Picture(images[i], subject.name(label), "large"), *others])


def find_neighbours(
    model: keras.Model,
    data_set: DataSet,
    queries: np.ndarray,
    k: int = 5,
) -> tuple[int, np.ndarray, np.ndarray]:
    """Finds the training pictures whose features in fc7 are nearest.

    Args:
        model: The network.
        data_set: The data.
        queries: uint8 `(n, size, size, 3)`.
        k: How many to find for each.

    Returns:
        How many training pictures were looked at, uint8 `(n, k, size, size, 3)`, and
        their labels, `(n, k)`.
    """
    features = keras.Model(model.inputs, model.get_layer("fc7").output)
    size = queries.shape[1]
    wanted = features.predict_on_batch(queries).astype(np.float64)
    distances, labels = [], []
    for images, some_labels in _read_pool(data_set, "train", size):
        vectors = features.predict_on_batch(images).astype(np.float64)
        # |a - b|² without |a|², which is the same for all b.
        distances.append(np.square(vectors).sum(axis=1) - 2 * wanted @ vectors.T)
        labels.append(some_labels)
    distances, labels = np.concatenate(distances, axis=1), np.concatenate(labels)
    distances[:, labels < 0] = np.inf
    pool = int((labels >= 0).sum())
    nearest = np.argsort(distances, axis=1, kind="stable")[:, : min(k, pool)]
    pictures = read_pictures(data_set, "train", nearest.ravel(), size)
    return pool, pictures.reshape(*nearest.shape, size, size, 3), labels[nearest]


def _read_pool(data_set: DataSet, split: str, size: int) -> Iterable:
    """Batches of the first pictures of a split."""
    batches = evaluation_batches(
        data_set, split, global_batch_size=_BATCH, image_size=size
    )
    return batches.take(max(1, POOL // _BATCH))


def _add_copies(page: Page, subject: Subject) -> None:
    """Names pictures that are nearly the same in training: they flatter the figures."""
    split = subject.evaluation.split
    number, copies = find_copies(subject.data_set, split, subject.image_size)
    page.section("Nearly the same pictures in training", "wide")
    text = f"of the {number:,} pictures of {split} that were looked at"
    if not copies:
        page.text(f"None {text} is nearly the same as a training picture.")
        return
    page.text(
        f"{len(copies):,} {text} are nearly the same as a training picture. What the "
        "network knows by heart makes its accuracy look higher than it is."
    )
    ours, theirs = (read_names(subject.data_set.splits[s]) for s in (split, "train"))
    rows = ((escape(ours[i]), escape(theirs[j])) for i, j in copies[:_NAMED])
    page.table(rows, (split, "train"))


def find_copies(
    data_set: DataSet, split: str, size: int
) -> tuple[int, list[tuple[int, int]]]:
    """Finds pictures of a split that are nearly the same as training pictures.

    Args:
        data_set: The data.
        split: Name of the split.
        size: Height and width at which they are compared, pixels.

    Returns:
        How many pictures were looked at, the first ones of the split; positions in it
        and in the training split of those that are nearly the same.
    """
    ours = _read_thumbnails(data_set, split, size)
    theirs = _read_thumbnails(data_set, "train", size)
    likeness = ours @ theirs.T
    nearest = likeness.argmax(axis=1)
    same = np.flatnonzero(likeness.max(axis=1) > _SAME)
    return int(np.any(ours, axis=1).sum()), [(int(i), int(nearest[i])) for i in same]


def _read_thumbnails(data_set: DataSet, split: str, size: int) -> np.ndarray:
    """Thumbnails of 32×32 grey pixels, `(n, 1024)`, whose products are correlations."""
    block = size // 32
    thumbnails = []
    for images, labels in _read_pool(data_set, split, size):
        grey = images.numpy()[:, : 32 * block, : 32 * block].mean(axis=3)
        small = grey.reshape(-1, 32, block, 32, block).mean(axis=(2, 4))
        small = small.reshape(-1, 32 * 32) * (labels.numpy() >= 0)[:, np.newaxis]
        small -= small.mean(axis=1, keepdims=True)
        length = np.linalg.norm(small, axis=1, keepdims=True)
        thumbnails.append(np.float32(small / np.maximum(length, 1e-6)))
    return np.concatenate(thumbnails)


def _add_facts(page: Page, subject: Subject) -> None:
    """What eval.json holds."""
    page.section("How this was measured", "wide")
    has_top_5 = len(subject.data_set.class_names) > 5
    page.table(
        (name.replace("_", " "), _describe(value))
        for name, value in subject.facts.items()
        if has_top_5 or not name.startswith("top_5")
    )


def _describe(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {x}" for name, x in value.items()) or "none"
    if isinstance(value, list | tuple):
        return " ".join(map(_describe, value))
    return f"{value:.4f}" if isinstance(value, float) else str(value)
