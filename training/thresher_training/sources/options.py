"""The options of all data sources, and what makes a source of a function that takes them."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, get_args

from thresher.errors import ConfigError, unknown_name
from thresher.tables.csv_files import CsvOptions
from thresher.tables.pictures import RESIZE
from thresher_training.data import DataSet
from thresher_training.sources.cache import CACHE

__all__ = ["Fill", "LabelForm", "MissingLabels", "SourceOptions", "source"]

MissingLabels = Literal["error", "unknown"]
LabelForm = Literal["multi_hot", "ids", "names"]
Fill = float | int | str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """Where the data are, and what becomes of their columns."""

    path: str
    """One table (a file, a folder of files or a glob) that is split by shares; or, where ``train``
    is given, the folder of the tables of the splits. Variables such as ``$DATA`` and
    ``${DATA:-default}`` are filled in."""
    train: str | None = None
    """The train rows, from ``path``: a file, a folder or a glob."""
    validation: str | None = None
    """Likewise; a share of train where left out."""
    test: str | None = None
    """Likewise."""
    validation_fraction: float = 0.15
    """The share of the rows of ``train`` (or of the one table) that becomes validation."""
    test_fraction: float = 0.15
    """Likewise, where there are no test files."""
    group_column: str | None = None
    """Rows with the same value here never fall into different splits."""
    seed: int = 0
    """Seed of the split."""
    cache: str = CACHE
    """Folder of what is kept between runs."""

    delimiter: str | None = None
    """Between the cells of CSV files; a tab in ``.tsv`` files and a comma in others if left out."""
    quoting: bool = True
    """Whether a CSV cell in double quotes may hold delimiters; false takes quotes as text."""
    columns: Sequence[str] | None = None
    """The columns' names, for CSV files without a header line."""
    encoding: str = "utf-8"
    """Of CSV files, such as ``latin-1`` or ``utf-16``."""

    features: Sequence[str] | None = None
    """Names or patterns of the columns of the input ``"features"``, float32; where left out, every
    column that is nothing else."""
    ignore: Sequence[str] = ()
    """Names or patterns of columns that are left alone, such as ids."""
    inputs: Mapping[str, str | Sequence[str]] | None = None
    """Further inputs by name, each from one column or from several side by side. One column keeps
    its kind of whole numbers, and may hold lists of one length."""
    categories: Sequence[str] = ()
    """Names or patterns of the columns of the input ``"categories"``, int64 [N, C]: ids of the
    values that occur in train; 0 is a value that does not, 1 a missing one."""
    fill_missing: Fill | Mapping[str, Fill] | None = None
    """Stands where a number is missing, which is an error otherwise: a number, ``"mean"`` or
    ``"median"`` of the column in train; or a table of these by column or pattern."""
    flag_missing: bool = False
    """Whether a 1 (was missing) or 0 follows the numbers of an input, for each column in which
    train lacks one."""

    label_columns: Sequence[str] | None = None
    """Names or patterns of columns with 1, 0 or nothing, one for each label."""
    label_column: str | None = None
    """Instead: the column with each row's labels, as a list or in one text."""
    label_delimiter: str = ","
    """Between the labels in one text."""
    label_names: str | Sequence[str] | None = None
    """All labels in order, or a file with one a line; numbers in the table are then positions in
    it, from 0. Where left out, the names that occur, sorted."""
    label_form: LabelForm | None = None
    """What ``label_column`` holds, where the rows alone do not say: ``"multi_hot"`` lists of 1 and
    0, ``"ids"`` (whole numbers) or ``"names"``, which are taken as they are written."""
    missing_labels: MissingLabels = "error"
    """What a row is that lacks a list of labels: ``"error"``, or labels all ``"unknown"``."""

    text_column: str = "text"
    """The column with the text."""
    missing_text: str | None = None
    """Stands where a text is missing, which is an error otherwise."""
    tokenizer: str = ""
    """``tokenizer.json``, the folder that holds it, or ``python:PACKAGE/folder`` inside an
    installed package."""
    max_length: int = 128
    """The tokens that are kept of a text, special ones included."""
    words: int = 2
    """The longest sequence of words that is hashed; 2 takes single words and pairs."""
    characters: Sequence[int] = ()
    """Shortest and longest sequence of characters inside a word, such as ``[3, 5]``; none where
    left out."""
    num_buckets: int = 1 << 18
    """The numbers that n-grams are hashed to."""
    max_ngrams: int = 256
    """The n-grams that are kept of a text, single words first."""

    file_column: str = "file"
    """The column with each picture's file name, or with the file's content."""
    folder: str | None = None
    """Where the pictures are; the table's own folder where left out."""
    size: int = 64
    """Width and height in pixels."""
    resize: str = "crop"
    """``"crop"`` keeps the middle square, ``"squeeze"`` the whole picture, out of shape, and
    ``"pad"`` the whole picture between black bars."""
    flip: bool = False
    """Whether half of the train pictures are mirrored left to right."""
    shift: float = 0.0
    """Train pictures move by up to this share of their size; edges are mirrored into view."""
    zoom: float = 0.0
    """Train pictures grow or shrink by up to this share."""
    color_jitter: float = 0.0
    """Brightness, contrast and saturation of train pictures change by up to this share."""
    erase: float = 0.0
    """The share of train pictures in which a random rectangle is made grey."""

    name: str | None = None
    """Of a Mulan data set, the NAME of its files; the folder's own name where left out."""
    targets: str = "targets"
    """Of NumPy files, the array [N, L] of 0 and 1, NaN where unknown."""
    groups: str | None = None
    """Of NumPy files, an array [N]; rows with the same value never fall into different splits."""

    def __post_init__(self) -> None:
        for key in ("features", "ignore", "categories", "label_columns", "columns", "characters"):
            given = getattr(self, key)
            if given is not None:
                object.__setattr__(self, key, (given,) if isinstance(given, str) else tuple(given))
        for key, valid in (
            ("missing_labels", get_args(MissingLabels)),
            ("label_form", (None, *get_args(LabelForm))),
            ("resize", tuple(RESIZE)),
        ):
            if getattr(self, key) not in valid:
                names = " or ".join(f'"{name}"' for name in valid if name is not None)
                raise ConfigError(f'{key} is "{getattr(self, key)}", expected {names}')
        self._check_numbers()
        if not self.label_delimiter:
            raise ConfigError('label_delimiter is "", expected what stands between two names')
        if self.train is None and (self.validation is not None or self.test is not None):
            raise ConfigError(
                "validation or test is given without train; give train too, or only the path of "
                "one table that is to be split"
            )
        if self.flag_missing and self.fill_missing is None:
            raise ConfigError(
                'flag_missing says where a number was missing: fill_missing, such as "median", has '
                "to say what stands there"
            )

    def _check_numbers(self) -> None:
        for key, least in (("size", 1), ("max_length", 3)):
            if getattr(self, key) < least:
                raise ConfigError(f"{key} is {getattr(self, key)!r}, expected at least {least}")
        for key in ("validation_fraction", "test_fraction"):
            if not 0 < getattr(self, key) < 1:
                raise ConfigError(f"{key} is {getattr(self, key)!r}, expected between 0 and 1")

    @property
    def csv(self) -> CsvOptions:
        """How the cells of CSV files are written."""
        return CsvOptions(
            delimiter=self.delimiter,
            quoting=self.quoting,
            columns=None if self.columns is None else tuple(self.columns),
            encoding=self.encoding,
        )

    def refuse_for_arrays(self) -> None:
        """Refuse what the source `table` takes and NumPy files have no use for.

        Raises:
            ConfigError: Names the options.
        """
        unused = [name for name in TAKEN["table"] if name not in TAKEN["arrays"]]
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        given = [name for name in unused if getattr(self, name) != defaults[name]]
        if given:
            raise ConfigError(
                f"{', '.join(given)}: not for NumPy files, whose arrays are named by inputs, "
                "targets, groups and label_names"
            )

    def key(self) -> dict[str, Any]:
        """Return what the arrays of the data depend on, of a cache's key."""
        no_part = ("cache", "flip", "shift", "zoom", "color_jitter", "erase")
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in no_part}


_SPLITS = ("path", "train", "validation", "test", "validation_fraction", "test_fraction", "seed")
_CSV = ("delimiter", "quoting", "columns", "encoding")
_LABELS = ("label_columns", "label_column", "label_delimiter", "label_names", "label_form")
_TABLE = (*_SPLITS, "cache", *_CSV, *_LABELS, "missing_labels", "group_column")
_TEXT = (*_TABLE, "text_column", "missing_text")
_NUMBERS = ("features", "ignore", "inputs", "categories", "fill_missing", "flag_missing")

TAKEN: Mapping[str, tuple[str, ...]] = {
    "table": (*_TABLE, *_NUMBERS, "targets", "groups"),
    "parquet": (*_TABLE, *_NUMBERS),
    "delimited": (*_TABLE, *_NUMBERS),
    "text": (*_TEXT, "tokenizer", "max_length"),
    "ngrams": (*_TEXT, "words", "characters", "num_buckets", "max_ngrams"),
    "images": (
        *(*_TABLE, "file_column", "folder", "size", "resize"),
        *("flip", "shift", "zoom", "color_jitter", "erase"),
    ),
    "arrays": (*_SPLITS, "cache", "inputs", "targets", "groups", "label_names"),
    "mulan": (
        *("path", "name", "validation_fraction", "test_fraction", "seed", "cache"),
        *("features", "ignore", "categories", "fill_missing", "flag_missing"),
    ),
}
"""By source: the options that it takes."""

_Source = Callable[[SourceOptions], DataSet]


def source(**defaults: Any) -> Callable[[_Source], Callable[..., DataSet]]:
    """Return what makes a source of a function, whose name says which options it takes.

    The source takes them by keyword, the path also by position.

    Args:
        defaults: Of options whose default is another one here; ``...`` has none.
    """
    return lambda function: _made(function, defaults)


def _made(function: _Source, defaults: Mapping[str, Any]) -> Callable[..., DataSet]:
    fields = {field.name: field for field in dataclasses.fields(SourceOptions)}
    required = inspect.Parameter.empty
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD
            if name == "path"
            else inspect.Parameter.KEYWORD_ONLY,
            default=required
            if name == "path" or defaults.get(name) is ...
            else defaults.get(name, fields[name].default),
            annotation=fields[name].type,
        )
        for name in TAKEN[function.__name__]
    ]
    parameters.sort(key=lambda parameter: parameter.default is not required)
    parameters.sort(key=lambda parameter: parameter.kind)
    signature = inspect.Signature(parameters, return_annotation="DataSet")

    @wraps(function)
    def called(*path: str, **options: Any) -> DataSet:
        for name in options:
            if name not in signature.parameters:
                raise ConfigError(
                    f"{function.__name__}: {unknown_name('option', name, signature.parameters)}"
                )
        bound = signature.bind(*path, **options)
        bound.apply_defaults()
        return function(SourceOptions(**{**bound.arguments, "path": str(bound.arguments["path"])}))

    called.__signature__ = signature  # type: ignore[attr-defined]
    called.__doc__ = f"{function.__doc__}\n{_arguments([*signature.parameters])}"
    return called


_RAISES = """

    Raises:
        ConfigError: If options do not go together.
        DataError: If a file is broken, or a cell wrong; names file, line or row, and column.
        MissingExtraError: If a package is not installed that the files need.
        NotFoundError: If a file is missing; names the nearest.
"""


def _arguments(names: Sequence[str]) -> str:
    """Return the section of a docstring that describes some options."""
    lines = ["    Args:"]
    for name in names:
        lines += textwrap.wrap(
            f"{name}: {_DOCS.get(name, '')}",
            width=96,
            initial_indent=" " * 8,
            subsequent_indent=" " * 12,
        )
    return "\n".join(lines) + _RAISES


def _field_docs() -> dict[str, str]:
    """Return what stands under each field; nothing where the source code is not at hand."""
    try:
        (made,) = ast.parse(textwrap.dedent(inspect.getsource(SourceOptions))).body
    except OSError:
        return {}
    assert isinstance(made, ast.ClassDef)
    found = {}
    for field, doc in zip(made.body, made.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(doc, ast.Expr)
            and isinstance(doc.value, ast.Constant)
        ):
            found[field.target.id] = " ".join(str(doc.value.value).split())
    return found


_DOCS = _field_docs()
