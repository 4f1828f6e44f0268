"""The table and the picture of what `cifar10_2012.py` has trained so far.

    python -m examples.cifar10_2012_report --runs_dir=runs/cifar10_2012

Prints the errors on the test images of each network and, of the networks of figure 1,
the epochs until 25 % training error, for each seed, and the minutes of all processors
that a run took. Draws figure 1 as the paper has it: the training error of an epoch,
ReLU solid and tanh dashed, each with the rate that came to 25 % first.
"""

import argparse
import json
import pathlib
import statistics

import matplotlib.figure
import numpy as np

STYLES = {"relu": "-", "tanh": "--"}
VIEWS = ("central", "nine", "ten")
LIMIT = 0.25


def read_records(runs_dir: pathlib.Path) -> dict[tuple[str, float], list[dict]]:
    """Reads the records of the runs that have ended, by network and rate, by seed."""
    groups = {}
    for file in sorted(runs_dir.glob("*/record.json")):
        record = json.loads(file.read_text())
        groups.setdefault((record["network"], record["rate"]), []).append(record)
    return {
        key: sorted(runs, key=lambda run: run["seed"]) for key, runs in groups.items()
    }


def epochs_to_limit(record: dict) -> float:
    """Returns the epochs until an epoch's training error was 25 %, NaN for never."""
    errors = record["errors"]
    return len(errors) / 5 if np.mean(errors[-5:]) <= LIMIT else np.nan


def best_rates(groups: dict) -> dict[str, list[dict]]:
    """Returns the runs of figure 1 at the rate with which seed 0 was there first."""
    best, least = {}, {}
    for (network, _), runs in groups.items():
        epochs = epochs_to_limit(runs[0])
        if network in STYLES and epochs < least.get(network, np.inf):
            best[network], least[network] = runs, epochs
    return best


def summarize(values: list[float], digits: int) -> str:
    """Returns each value, their mean and, of two and more, their standard deviation."""
    if np.isnan(values).any():
        return "–"
    each = ", ".join(f"{value:.{digits}f}" for value in values)
    mean = f"**{statistics.mean(values):.{digits}f}**"
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{each}: {mean}{spread}"


def describe(network: str, rate: float, runs: list[dict]) -> str:
    """Returns a row of one of the tables."""
    if network in STYLES:
        cells = [summarize([epochs_to_limit(run) for run in runs], 1)]
    else:
        cells = [
            summarize([100 * run["test_errors"].get(view, np.nan) for run in runs], 2)
            for view in VIEWS
        ]
    seeds = ", ".join(str(run["seed"]) for run in runs)
    minutes = statistics.mean(run["cpu_seconds"] for run in runs) / 60
    cells = [network, f"{rate:g}", seeds, *cells, f"{minutes:.0f}"]
    return f"| {' | '.join(cells)} |"


def draw(best: dict[str, list[dict]], picture: pathlib.Path) -> None:
    """Draws the training error of an epoch, as figure 1 of the paper."""
    figure = matplotlib.figure.Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.subplots()
    for network, runs in best.items():
        for run in runs:
            # At each fifth the mean over the five before: there is an end in between.
            curve = np.convolve(run["errors"], np.full(5, 0.2), "valid")
            epochs = (np.arange(len(curve)) + 5) / 5
            label = f"{network}, rate {run['rate']:g}" if run is runs[0] else None
            axes.plot(epochs, curve, STYLES[network], color="black", label=label)
    axes.axhline(LIMIT, color="grey", linewidth=0.5)
    axes.set(
        xlabel="Epochs", ylabel="Training error rate", xlim=(0, None), ylim=(0, 0.75)
    )
    axes.legend()
    figure.savefig(picture, dpi=120)


def report(runs_dir: pathlib.Path, picture: pathlib.Path) -> None:
    """Prints two tables, a row for every network and rate, and draws figure 1."""
    groups = read_records(runs_dir)
    tables = {"test error, %": VIEWS, "figure 1": ["epochs until 25 %"]}
    for title, columns in tables.items():
        heads = [title, "rate", "seeds", *columns, "CPU min"]
        print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
        for (network, rate), runs in groups.items():
            if (network in STYLES) == (title == "figure 1"):
                print(describe(network, rate, runs))
        print()
    draw(best_rates(groups), picture)


def main() -> None:
    """Reports on the runs of a directory."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    runs_dir = pathlib.Path("runs/cifar10_2012")
    parser.add_argument("--runs_dir", type=pathlib.Path, default=runs_dir)
    parser.add_argument("--picture", type=pathlib.Path, default="figure_1.png")
    args = parser.parse_args()
    report(args.runs_dir, args.picture)


if __name__ == "__main__":
    main()
