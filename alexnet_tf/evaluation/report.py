"""A page about an evaluation: one HTML file without links, and its figures as PNG.

`write_report` is the page from top to bottom; each function below it adds a section.
"""

import base64
import dataclasses
import html
import os
import string
import sys
from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np
from tqdm import tqdm

from alexnet_tf.evaluation import explaining, figures, mosaics
from alexnet_tf.evaluation.metrics import precision_recall_f1
from alexnet_tf.evaluation.results import (
    Evaluation,
    Predictions,
    read_names,
)
from alexnet_tf.files import shown, writing
from alexnet_tf.metrics_file import read_records
from alexnet_tf.pipeline.batches import evaluation_batches, read_pictures
from alexnet_tf.pipeline.data_set import DataSet
from alexnet_tf.run import Run, build_model

POOL = 4096  # pictures of a split, at most, that are compared with others
_BATCH = 128
_NUM_SECTIONS = 10  # that the progress bar counts, beside the batches of neighbours
_TABLE_CLASSES = 50  # of the table of classes; of more, the worst
_MATRIX_CLASSES = 200  # of a confusion matrix that shows anything
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
        model: The network, or the first of several.
        run: Its run; None for published weights.
    """

    evaluation: Evaluation
    facts: dict
    data_set: DataSet
    model: keras.Model
    run: Run | None

    @property
    def image_size(self) -> int:
        """Height and width of the network's input, pixels."""
        return self.model.input_shape[1]

    @property
    def num_training(self) -> int:
        """Pictures to compare with; 0 where the training pictures were evaluated."""
        train = self.data_set.splits.get("train")
        return train.num_examples if train and self.evaluation.split != "train" else 0


@dataclasses.dataclass(frozen=True)
class Examples:
    """Some pictures, drawn at random, first those that were answered right.

    Attributes:
        rows: int `(n,)`, indices in `Predictions`.
        images: uint8 `(n, size, size, 3)`.
        labels: `(n,)`.
        answers: `(n,)`.
    """

    rows: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    answers: np.ndarray


def write_report(directory: str, subject: Subject) -> None:
    """Writes `index.html` and the figures."""
    num_batches = min(subject.num_training, POOL) // _BATCH
    with tqdm(
        total=_NUM_SECTIONS + num_batches,
        desc="report",
        bar_format="{desc} {percentage:3.0f}% |{bar:30}| {remaining} left",
        leave=False,
        disable=not sys.stderr.isatty(),
    ) as bar:
        page = Page(directory, bar.update)
        page.headline(*_headline(subject))
        page.text(_summary(subject.facts))
        _add_curves(page, subject)
        _add_classes(page, subject)
        _add_confusion(page, subject)
        _add_calibration(page, subject.evaluation.predictions)
        _add_confused_pairs(page, subject)
        examples = _add_answers(page, subject)
        _add_where(page, subject, examples)
        _add_kernels(page, subject.model, subject.run)
        _add_neighbours(page, subject, examples)
        _add_copies(page, subject)
        page.section("How this was measured", "wide")
        page.table(_list_facts(subject.facts, subject.data_set.num_classes))
        page.write(f"AlexNet on {subject.data_set.name}")


class Page:
    """Collects the parts of the page; writes every figure as a PNG too."""

    def __init__(self, directory: str, on_part: Callable[[int], object] = lambda n: n):
        self._directory, self._parts, self.on_part = directory, [], on_part
        self._titles = []

    def headline(self, figure: str, text: str) -> None:
        """Adds the most important figure, large, and a text below it."""
        self._parts.append(f'<p class="headline">{html.escape(figure)}</p>')
        self.text(text)

    def section(self, title: str, style: str = "") -> None:
        """Begins a section: half as wide as a desktop, "wide" or "tall"."""
        start = "</section>" if self._titles else "<main>"
        self._titles.append(title)
        start += f'<section id="s{len(self._titles)}" class="{style}">'
        self._parts.append(f"{start}<h2>{html.escape(title)}</h2>")
        self.on_part(1)

    def text(self, text: str) -> None:
        """Adds a paragraph."""
        self._parts.append(f"<p>{html.escape(text)}</p>")

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

    def figure(self, name: str, figure, caption: str = "", width: int = 0) -> None:
        """Adds a matplotlib figure, or uint8 pixels.

        Args:
            name: That of the PNG.
            figure: What to show.
            caption: Text below it.
            width: Pixels of the page; by default that of the pixels.
        """
        png = mosaics.encode_png(figure)
        with writing(os.path.join(self._directory, name + ".png"), "wb") as file:
            file.write(png)
        width = width or int.from_bytes(png[16:20])
        if not isinstance(figure, np.ndarray):
            width //= 2  # figures have two pixels for each of the page's
        source = "data:image/png;base64," + base64.b64encode(png).decode()
        alt = html.escape(caption or name.replace("_", " "))
        image = f'<img src="{source}" width="{width}" alt="{alt}">'
        caption = f'<figcaption style="max-width:{max(width, 350)}px">' + (
            f"{html.escape(caption)}</figcaption>"
        )
        self._parts.append(f"<figure>{image}{caption}</figure>")

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
            title=html.escape(shown(title)),
            contents="".join(links),
            body="\n".join([*self._parts, end]),
        )
        with writing(os.path.join(self._directory, "index.html")) as file:
            file.write(page)


def _headline(subject: Subject) -> tuple[str, str]:
    evaluation, names = subject.evaluation, subject.data_set.class_names
    low, high = subject.facts["top_1_error_interval"]
    text = (
        f"Top-1 accuracy on {evaluation.num_evaluated:,} images of the split "
        f"{evaluation.split}; 95 % interval {1 - high:.1%} to {1 - low:.1%}. Always "
        "answering the largest class would be right in "
        f"{evaluation.largest_class:.1%}. Balanced accuracy, the mean of the classes' "
        f"own, is {evaluation.balanced_accuracy:.1%}, macro-F1 "
        f"{evaluation.macro_f1:.1%}."
    )
    answers = np.bincount(evaluation.predictions.answers)
    share = answers.max() / evaluation.num_evaluated
    if share > 0.9 and np.count_nonzero(np.bincount(evaluation.predictions.labels)) > 1:
        name = shown(names[answers.argmax()])
        text += f" The network answers {name} to {share:.0%} of the images."
    headline = f"{1 - evaluation.top_1_error:.1%} right"
    return f"{headline}, {evaluation.balanced_accuracy:.1%} balanced", text


def _summary(facts: dict) -> str:
    seeds = ", ".join(map(str, facts["seeds"]))
    text = (
        f"Recipe {facts['recipe']}, seed {seeds}, {facts['date']}; settings that "
        f"differ from the recipe: {_settings(facts)}."
    )
    if len(facts["sha256"]) > 1:
        text += " Where it looks, kernels and features are of the first network."
    return text


def _settings(facts: dict) -> str:
    settings = (f"{name} {value}" for name, value in facts["settings"].items())
    return ", ".join(settings) or "none"


def _list_facts(facts: dict, num_classes: int) -> list[tuple[str, str]]:
    rows = [
        ("split", facts["split"]),
        ("evaluated", f"{facts['num_evaluated']:,} of {facts['num_examples']:,}"),
        ("views", facts["views"]),
    ]
    for k in (1, 5) if num_classes > 5 else (1,):
        low, high = facts[f"top_{k}_error_interval"]
        error = facts[f"top_{k}_error"]
        text = f"{error:.2%} (95 % interval {low:.2%} to {high:.2%})"
        rows.append((f"top-{k} accuracy", f"{1 - error:.2%}"))
        rows.append((f"top-{k} error", text))
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    return [
        *rows,
        ("balanced accuracy", f"{facts['balanced_accuracy']:.2%}"),
        ("macro-F1", f"{facts['macro_f1']:.2%}"),
        ("largest class", f"{facts['largest_class']:.2%}"),
        ("cross-entropy", f"{facts['cross_entropy']:.4f}"),
        ("recipe", facts["recipe"]),
        ("other settings", _settings(facts)),
        ("seed", ", ".join(map(str, facts["seeds"]))),
        ("parameters", f"{facts['parameters']:,}"),
        ("network", facts["checkpoint"]),
        ("data", facts["data_dir"]),
        ("date", facts["date"]),
        ("versions", versions),
    ]


def _add_curves(page: Page, subject: Subject) -> None:
    records = read_records(subject.run.metrics_file) if subject.run else []
    if records:
        page.section("How it learnt", "tall")
        largest = subject.evaluation.largest_class
        drawn = figures.draw_learning_curves(records, largest, columns=1)
        page.figure("learning_curves", drawn)


def _add_classes(page: Page, subject: Subject) -> None:
    predictions, names = subject.evaluation.predictions, subject.data_set.class_names
    measures = precision_recall_f1(predictions.labels, predictions.answers, len(names))
    examples = np.bincount(predictions.labels, minlength=len(names))
    page.section("Every class")
    order = np.argsort(measures[:, 2], kind="stable")  # those without examples last
    if len(order) > _TABLE_CLASSES:
        page.text("The 20 with the lowest F1; all of them are in per_class.csv.")
        order = order[:20]
    taken_for = {}
    for label, answer, _ in predictions.mistakes():
        taken_for.setdefault(label, mosaics.shorten(names[answer]))
    rows = (
        [
            *(shown(names[i]), examples[i]),
            *map(_percent, measures[i]),
            taken_for.get(i, ""),
        ]
        for i in order
    )
    heads = ("class", "images", "precision", "recall", "F1", "most often taken for")
    page.table(rows, heads)


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{share:.0%}"


def _add_confusion(page: Page, subject: Subject) -> None:
    names = subject.data_set.class_names
    if len(names) <= _MATRIX_CLASSES:
        page.section("What it takes for what", "wide" if len(names) > 25 else "")
        confusion = subject.evaluation.predictions.confusion(len(names))
        page.figure("confusion_matrix", figures.draw_confusion(confusion, names))


def _add_calibration(page: Page, predictions: Predictions) -> None:
    page.section("Are the probabilities right?")
    confidences = predictions.top_probabilities[:, 0]
    bins = figures.bin_by_confidence(confidences, predictions.ranks == 0)
    page.text(
        f"The answers in {len(bins)} groups of about {bins[0, 2]:.0f}, from the least "
        "to the most certain. Where the network is certain in 80 %, it should be right "
        "in 80 %: on the broken line. The bars are 95 % intervals."
    )
    page.figure("reliability", figures.draw_reliability(bins))


def _add_confused_pairs(page: Page, subject: Subject) -> None:
    predictions, names = subject.evaluation.predictions, subject.data_set.class_names
    labels, answers = predictions.labels, predictions.answers
    page.section("Most confused pairs")
    mistakes = predictions.mistakes()[:4]
    groups = [
        np.flatnonzero((labels == label) & (answers == answer))[:4]
        for label, answer, _ in mistakes
    ]
    images = _read(subject, np.concatenate([*groups, np.zeros(0, int)]))
    ends = np.cumsum([len(group) for group in groups])
    for (label, answer, times), end, group in zip(mistakes, ends, groups, strict=True):
        pictures = mosaics.halve(images[end - len(group) : end])
        page.figure(
            f"confused_{label}_{answer}",
            mosaics.lay_out(pictures, columns=len(pictures)),
            f"{shown(names[label])}, taken for {shown(names[answer])} "
            f"{times} times of {(labels == label).sum()}",
        )


def _read(subject: Subject, rows: np.ndarray) -> np.ndarray:
    """The pictures at some indices of `Predictions`, as the network sees them."""
    evaluation = subject.evaluation
    positions = evaluation.predictions.positions[rows]
    return read_pictures(
        subject.data_set, evaluation.split, positions, subject.image_size
    )


def _add_answers(page: Page, subject: Subject) -> Examples:
    predictions, names = subject.evaluation.predictions, subject.data_set.class_names
    page.section("What it answers (Figure 4 of the paper)", "wide")
    right, wrong = choose_examples(predictions)
    rows = np.concatenate([right, wrong])
    images = _read(subject, rows)
    parts = (
        ("right", right, images[: len(right)]),
        ("wrong", wrong, images[len(right) :]),
    )
    for name, part, pictures in parts:
        if len(part):
            chosen = (
                predictions.labels[part],
                predictions.top_ids[part],
                predictions.top_probabilities[part],
            )
            drawn = figures.draw_predictions(pictures, *chosen, names)
            caption = f"{name} answers, drawn at random"
            page.figure(f"answers_{name}", drawn, caption, width=1120)
    return Examples(rows, images, predictions.labels[rows], predictions.answers[rows])


def choose_examples(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Some answers that are right, and some that are wrong, drawn at random."""
    order = np.random.default_rng(0).permutation(len(predictions.labels))
    is_right = predictions.ranks[order] == 0
    return order[is_right][:_EXAMPLES], order[~is_right][:_EXAMPLES]


def _add_where(page: Page, subject: Subject, examples: Examples) -> None:
    """For each picture where it shows the class that was answered."""
    model, size = subject.model, (subject.image_size,) * 2
    names = [mosaics.wrap(name, 15) for name in subject.data_set.class_names]
    page.section("Where it looks", "wide")
    page.text(
        "In the middle, squares of 64 pixels hid one part after another: the colour is "
        "by how many percentage points the probability of the answer fell (Zeiler and "
        "Fergus 2014, section 4.2). The scale is the same for all pictures:"
    )
    page.figure("scale", _draw_scale(), "percentage points")
    page.text(
        "On the right, Grad-CAM: the maps of conv5, each by its influence on the "
        "answer (Selvaraju et al. 2017). There yellow is each picture's largest value."
    )
    relative = explaining.explain(model, examples.images, examples.answers)
    for is_right, name in ((True, "right"), (False, "wrong")):
        tiles, captions, frames = [], [], []
        is_part = (examples.labels == examples.answers) == is_right
        for i in np.flatnonzero(is_part):
            image, answer = examples.images[i], examples.answers[i]
            classify = explaining.pick_class(model, answer)
            falls = explaining.measure_falls(classify, image, _BATCH)
            absolute = explaining.overlay(image, explaining.to_shares(falls, size))
            tiles += [image, absolute, relative[i]]
            cost = mosaics.wrap(explaining.describe_falls(falls), 15)
            captions += [names[examples.labels[i]], cost, f"as {names[answer]}"]
            frames += [is_right, None, None]
        if tiles:
            rows = mosaics.halve(np.stack(tiles))
            drawn = mosaics.lay_out_captioned(rows, captions, 3, is_right=frames)
            page.figure(f"where_{name}", drawn, f"{name} answers", width=450)


def _draw_scale() -> np.ndarray:
    """Some colours of `explaining.overlay`, and the points that they stand for."""
    shares = np.linspace(0, 1, 5)
    grey = np.full((16, 60, 3), 128, np.uint8)
    colors = [explaining.overlay(grey, np.full((16, 60), share)) for share in shares]
    points = [f"{explaining.to_points(share):.0f}" for share in shares]
    return mosaics.lay_out_captioned(
        np.stack(colors), [*points[:-1], points[-1] + "+"], 5
    )


def _add_kernels(page: Page, model: keras.Model, run: Run | None) -> None:
    kernel, towers = mosaics.find_kernels(model)
    page.section("First-layer kernels (Figure 3)")
    caption = "the two towers apart" if towers == 2 else "of one tower"
    page.text(
        "The paper's network has learnt edges of all directions in one tower and "
        "colours in the other, from 90 epochs of 1.2 million pictures. After a short "
        "training the kernels still look like the noise that they began as."
    )
    page.figure("kernels", mosaics.draw_kernels(kernel, towers), f"now; {caption}")
    config = run and run.read_config()
    if config and not config.init_weights:  # else nobody knows what they were at first
        new, _ = mosaics.find_kernels(build_model(config, "float32"))
        share = np.linalg.norm(kernel - new) / np.linalg.norm(new)
        page.section("What training changed in them")
        page.text(
            f"The kernels have changed by {share:.1%} of their length. This is the "
            "change alone."
        )
        changes = mosaics.draw_kernels(kernel - new, towers)
        page.figure("kernel_changes", changes, "what changed")


def _add_neighbours(page: Page, subject: Subject, examples: Examples) -> None:
    """For each picture the training pictures that are nearest to it in fc7."""
    if not subject.num_training:
        return
    names = [mosaics.shorten(name) for name in subject.data_set.class_names]
    pool, nearest, labels = find_neighbours(
        subject.model, subject.data_set, examples.images, on_batch=page.on_part
    )
    page.section("Nearest training pictures (Figure 4, right)", "wide")
    page.text(
        "The large picture is one from above; after it come the nearest to it by "
        f"distance in what fc7 puts out, of {pool:,} training pictures. A whole blue "
        "frame: of the same class; a broken orange one: of another."
    )
    for i, label in enumerate(examples.labels):
        is_same = (labels[i] == label).tolist()
        drawn = mosaics.lay_after(examples.images[i], nearest[i], is_same)
        others = dict.fromkeys(names[n] for n in labels[i] if n != label)
        caption = f"{sum(is_same)} of the {len(is_same)} nearest are {names[label]} too"
        caption += f", others {', '.join(others)}" if others else ""
        page.figure(f"neighbours_{i + 1}", drawn, caption, width=560)


def find_neighbours(
    model: keras.Model,
    data_set: DataSet,
    queries: np.ndarray,
    k: int = 5,
    on_batch: Callable[[int], object] = lambda n: n,
) -> tuple[int, np.ndarray, np.ndarray]:
    """Finds the training pictures whose features in fc7 are nearest.

    Args:
        model: The network.
        data_set: The data.
        queries: uint8 `(n, size, size, 3)`.
        k: How many to find for each.
        on_batch: Called with 1 after each batch of training pictures.

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
        on_batch(1)
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
    if not subject.num_training:
        return
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
    rows = ((shown(ours[i]), shown(theirs[j])) for i, j in copies[:_NAMED])
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
