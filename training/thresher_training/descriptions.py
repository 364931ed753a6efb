"""What a run and a registered version say about themselves on MLflow's pages, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from thresher_training.data import DataSet
from thresher_training.decisions import TunedDecision
from thresher_training.hints import chosen_for
from thresher_training.recipe import DecisionConfig
from thresher_training.report_tables import SHOWN

__all__ = ["describe_run", "describe_tuning", "describe_version"]

_MOST_LABELS = 40
_FIGURES = ("micro_f1", "macro_f1", "example_f1", "hamming_loss", "subset_accuracy")


def describe_run(
    name: str,
    data: DataSet,
    tuned: TunedDecision,
    figures: Mapping[str, float],
    hints: Sequence[str] = (),
) -> str:
    """Return what was trained on what, the test figures, and where to look for more.

    Args:
        name: The recipe's name.
        data: What was trained on.
        tuned: The decision.
        figures: Test figures by name, as `thresher_training.metrics.figures` gives them.
        hints: What validation speaks against, a line each.
    """
    sizes = ", ".join(f"{len(split):,} {which}" for which, split in data.splits.items())
    chosen = f"Thresholds were chosen on validation by `{_objectives(tuned)}`."
    files = (
        ("labels.csv", "each label on the test split"),
        ("thresholds/side_by_side.html", "all figures at 0.5, shared and tuned thresholds"),
        ("thresholds/explorer.html", "move thresholds and see what happens"),
        ("plots/", "curves, F1 against support, labels that go together, mistakes"),
        ("mistakes.csv", "the surest mistakes, label by label"),
        ("doctor/", "what was checked before training"),
        ("recipe.toml, environment.json", "to train it again"),
    )
    return "\n".join(
        [
            # MLflow folds what follows the first lines
            f"**Test split, tuned thresholds: {_headline(figures)}.**",
            "",
            *_table(figures, chosen_for(tuned)),
            "",
            *(line for hint in hints for line in (_code(hint), "")),
            f"{name}: {data.num_labels} labels; {data.source}. Rows: {sizes}. {chosen}",
            "",
            *(f"- `{file}`: {what}" for file, what in files),
        ]
    )


def describe_version(uri: str, tuned: TunedDecision, figures: Mapping[str, float]) -> str:
    """Return a registered version's labels, thresholds and test figures, and what to do with it.

    Args:
        uri: ``models:/NAME/N``.
        tuned: The decision.
        figures: Test figures by name, as `thresher_training.metrics.figures` gives them.
    """
    decision = tuned.decision
    shown = list(zip(decision.labels, decision.thresholds, strict=True))[:_MOST_LABELS]
    more = decision.num_labels - len(shown)
    calibrated = "calibrated probabilities" if decision.is_calibrated else "no calibration"
    what = (
        f"{decision.num_labels} labels, a threshold for each by `{_objectives(tuned)}`, "
        f"{calibrated}. Takes the network's inputs, gives logits; `decision.json` in the run's "
        "artifacts makes them probabilities and yes or no."
    )
    thresholds = ", ".join(f"{_code(label)} {threshold:.3f}" for label, threshold in shown)
    rest = f", and {more} more in `decision.json`" if more else ""
    commands = ("```", f"thresher export {uri}", f"thresher tune {uri} --objective f2", "```")
    lines = [
        what,
        "",
        *_table(figures, chosen_for(tuned)),
        "",
        f"Label and threshold: {thresholds}{rest}.",
        "",
    ]
    return "\n".join([*lines, *commands])


def describe_tuning(
    source: str, config: DecisionConfig, changes: Sequence[str], *, rows: str
) -> str:
    """Return what a tuned version was made of, and by which settings.

    Args:
        source: The version that was tuned.
        config: By what.
        changes: The settings that differ from the source's, a line each.
        rows: What was tuned on: ``"validation"``, with who scored it, or the name of a file.
    """
    on = f"the rows of {_code(rows)}"
    own = ", ".join(
        f"{_code(label)} {text}" for label, text in list(config.objectives.items())[:_MOST_LABELS]
    )
    lines = [f"Tuned from {source} on {on}: the same weights, another decision.", ""]
    lines += [f"- {_code(change)}" for change in changes[:_MOST_LABELS]]
    if not changes:
        lines.append(f"- by the settings of {source}")
    if own:
        lines.append(f"- labels with an objective of their own: {own}")
    return "\n".join(lines)


def _table(figures: Mapping[str, float], chosen: Mapping[str, str]) -> list[str]:
    """Return the test figures by kind of thresholds, as the lines of a table."""
    names = [name.replace("_f1", "-F1").replace("_", " ") for name in _FIGURES]
    lines = [
        f"| test split, thresholds | chosen for | {' | '.join(names)} |",
        f"|---|---|{'---:|' * len(names)}",
    ]
    for which, words in SHOWN.items():
        values = [figures.get(f"test/{which}/{name}") for name in _FIGURES]
        cells = ["" if value is None else f"{value:.4f}" for value in values]
        lines.append(f"| {words} | {chosen[which]} | {' | '.join(cells)} |")
    mean = figures.get("test/mean_average_precision")
    return lines if mean is None else [*lines, "", f"mAP on the test split: {mean:.4f}"]


def _headline(figures: Mapping[str, float]) -> str:
    shown = {"macro-F1": "tuned/macro_f1", "micro-F1": "tuned/micro_f1"}
    shown["mAP"] = "mean_average_precision"
    there = {words: figures[f"test/{k}"] for words, k in shown.items() if f"test/{k}" in figures}
    return ", ".join(f"{words} {value:.4f}" for words, value in there.items())


def _objectives(tuned: TunedDecision) -> str:
    return ", ".join(dict.fromkeys(row.objective for row in tuned.report))


def _code(label: str) -> str:
    """Return a label as code; a backtick or a line break in it would end the code."""
    return "`" + " ".join(label.replace("`", "'").split()) + "`"
