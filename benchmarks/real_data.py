"""Real multi-label data sets, and logits on them by logistic regression, kept between runs.

The data is read in place, from the folder that the environment variable THRESHER_DATA names (by
default ``../shared/data`` beside the repository). The sets are Mulan's emotions, yeast, bibtex and
delicious and the GoEmotions comments, each on its official split.

Thresholds need scores of rows that the model has not learnt from. GoEmotions has a validation
split. The Mulan sets have none: there each train row is scored by a model that was fitted without
it (5-fold), and the model whose test scores are reported was fitted on all train rows.
"""

from __future__ import annotations

import csv
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

__all__ = ["DATA", "KEPT", "NAMES", "ROOT", "RealData", "Scored", "data_folder", "load", "scored"]

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / ".thresher" / "results"
DATA = "THRESHER_DATA"
NAMES = ("emotions", "yeast", "bibtex", "delicious", "goemotions")
NUM_FOLDS = 5

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class RealData:
    """A data set on its official split; inputs are rows of numbers, dense or sparse."""

    name: str
    labels: tuple[str, ...]
    train_inputs: npt.NDArray[np.float64] | sparse.csr_matrix
    train_targets_NL: FloatArray
    test_inputs: npt.NDArray[np.float64] | sparse.csr_matrix
    test_targets_NL: FloatArray
    dev_inputs: sparse.csr_matrix | None = None
    dev_targets_NL: FloatArray | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Logits and targets to tune on and, apart from them, those to report on."""

    name: str
    labels: tuple[str, ...]
    tune_logits_NL: FloatArray
    tune_targets_NL: FloatArray
    test_logits_NL: FloatArray
    test_targets_NL: FloatArray
    train_positives_L: npt.NDArray[np.int64]


def data_folder() -> Path:
    """Return the folder of the data sets; it need not exist."""
    return Path(os.environ.get(DATA) or ROOT.parent / "shared" / "data")


def load(name: str) -> RealData:
    """Return a data set by its name, one of `NAMES`.

    Raises:
        FileNotFoundError: If the data is not there; says how to name its folder.
    """
    folder = data_folder() / ("goemotions" if name == "goemotions" else f"mulan/{name}")
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; set {DATA} to the folder of the data sets")
    return _goemotions(folder) if name == "goemotions" else _mulan(name, folder)


def _mulan(name: str, folder: Path) -> RealData:
    # S314: a file of the data set itself, not from a stranger
    tree = ElementTree.parse(folder / f"{name}.xml")  # noqa: S314
    tags = [element.attrib["name"] for element in tree.iter() if "name" in element.attrib]
    names = {tag.replace("\\", "") for tag in tags}
    parts = []
    for split in ("train", "test"):
        columns, table = _arff(folder / f"{name}-{split}.arff")
        is_label = np.array([column in names for column in columns])
        targets_NL = table[:, is_label]
        if sparse.issparse(targets_NL):
            targets_NL = targets_NL.toarray()
        parts.append((table[:, ~is_label], np.asarray(targets_NL, dtype=np.float32)))
    if is_label.sum() != len(names):
        raise ValueError(f"{name}: {is_label.sum()} label columns, {len(names)} in {name}.xml")
    (train_inputs, train_targets_NL), (test_inputs, test_targets_NL) = parts
    return RealData(
        name=name,
        labels=tuple(column for column in columns if column in names),
        train_inputs=train_inputs,
        train_targets_NL=train_targets_NL,
        test_inputs=test_inputs,
        test_targets_NL=test_targets_NL,
    )


def _arff(path: Path) -> tuple[list[str], npt.NDArray[np.float64] | sparse.csr_matrix]:
    """Return column names and rows of an ARFF file, sparse where its rows are."""
    import arff

    text = path.read_text(encoding="utf-8")
    _, _, body = text.partition("@data")
    is_sparse = body.lstrip().startswith("{")
    content = arff.loads(
        text, encode_nominal=True, return_type=arff.LOD if is_sparse else arff.DENSE
    )
    columns = [column.replace("\\", "") for column, _ in content["attributes"]]
    if not is_sparse:
        return columns, np.array(content["data"], dtype=np.float64)
    rows = [(at, *cell) for at, row in enumerate(content["data"]) for cell in row.items()]
    row_K, column_K, value_K = np.array(rows, dtype=np.float64).T
    shape = (len(content["data"]), len(columns))
    return columns, sparse.csr_matrix((value_K, (row_K.astype(int), column_K.astype(int))), shape)


def _goemotions(folder: Path) -> RealData:
    labels = tuple((folder / "emotions.txt").read_text(encoding="utf-8").split())
    texts, targets = {}, {}
    for split in ("train", "dev", "test"):
        with (folder / f"{split}.tsv").open(encoding="utf-8", newline="") as lines:
            rows = list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
        texts[split] = [row[0] for row in rows]
        targets[split] = np.zeros((len(rows), len(labels)), dtype=np.float32)
        for at, row in enumerate(rows):
            targets[split][at, [int(label) for label in row[1].split(",")]] = 1
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    train_inputs = vectorizer.fit_transform(texts["train"])
    return RealData(
        name="goemotions",
        labels=labels,
        train_inputs=train_inputs,
        train_targets_NL=targets["train"],
        dev_inputs=vectorizer.transform(texts["dev"]),
        dev_targets_NL=targets["dev"],
        test_inputs=vectorizer.transform(texts["test"]),
        test_targets_NL=targets["test"],
    )


def scored(name: str, *, num_jobs: int = 2, keep: Path = KEPT) -> Scored:
    """Return the logits of a data set, from the folder ``keep`` where an earlier run left them.

    Raises:
        FileNotFoundError: If neither kept logits nor the data is there.
    """
    path = keep / f"{name}.npz"
    if path.is_file():
        with np.load(path) as kept:
            arrays = dict(kept)
    else:
        arrays = _fit(load(name), num_jobs)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **arrays)
    labels = tuple(str(label) for label in arrays.pop("labels"))
    return Scored(name=name, labels=labels, **arrays)


def _fit(data: RealData, num_jobs: int) -> dict[str, npt.NDArray]:
    test_logits_NL, dev_logits_NL = _logits(
        data.train_inputs,
        data.train_targets_NL,
        (data.test_inputs, data.test_inputs if data.dev_inputs is None else data.dev_inputs),
        num_jobs,
        10.0 if data.name == "goemotions" else 1.0,  # TF-IDF rows have length 1
    )
    dev_targets_NL = data.dev_targets_NL
    if dev_targets_NL is None:
        dev_targets_NL = data.train_targets_NL
        dev_logits_NL = np.empty_like(dev_targets_NL)
        folds = KFold(NUM_FOLDS, shuffle=True, random_state=0).split(dev_targets_NL)
        for fitted, held_out in folds:
            (dev_logits_NL[held_out],) = _logits(
                data.train_inputs[fitted],
                data.train_targets_NL[fitted],
                (data.train_inputs[held_out],),
                num_jobs,
            )
    return {
        "labels": np.array(data.labels),
        "tune_logits_NL": dev_logits_NL,
        "tune_targets_NL": dev_targets_NL,
        "test_logits_NL": test_logits_NL,
        "test_targets_NL": data.test_targets_NL,
        "train_positives_L": data.train_targets_NL.sum(axis=0).astype(np.int64),
    }


def _logits(train_inputs, targets_NL, others, num_jobs, strength=1.0):
    """Return logits of each of ``others`` by one logistic regression per label."""
    if not sparse.issparse(train_inputs):
        scaler = StandardScaler().fit(train_inputs)
        train_inputs = scaler.transform(train_inputs)
        others = [scaler.transform(each) for each in others]
    else:  # what workers share is read-only, so it is put in order before
        for each in (train_inputs, *others):
            each.sum_duplicates()
    columns = Parallel(n_jobs=num_jobs)(
        delayed(_one_label)(train_inputs, targets_N, others, strength) for targets_N in targets_NL.T
    )
    return [np.stack(each, axis=1) for each in zip(*columns, strict=True)]


def _one_label(train_inputs, targets_N, others, strength):
    positives, num_rows = int(targets_N.sum()), len(targets_N)
    if positives in {0, num_rows}:  # nothing to learn: the smoothed share of positives
        logit = np.log((positives + 0.5) / (num_rows - positives + 0.5))
        return [np.full(each.shape[0], logit, dtype=np.float32) for each in others]
    if sparse.issparse(train_inputs):
        model = LogisticRegression(solver="liblinear", C=strength, max_iter=200)
    else:  # few rows, all columns in use: more regularised
        model = LogisticRegression(solver="lbfgs", C=0.1, max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train_inputs, targets_N)
    return [model.decision_function(each).astype(np.float32) for each in others]
