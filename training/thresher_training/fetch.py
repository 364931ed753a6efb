"""Published data sets: fetched from their publishers, each file checked by its SHA-256.

``data_sets/NAME.toml`` in this package says which files a data set has; a file of one's own in the
same form does as well.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from thresher.config import load_toml
from thresher.errors import ConfigError, DataError, NotFoundError, unknown_name

__all__ = ["DATA_VARIABLE", "DataFile", "DataFiles", "data_files", "data_folder", "fetch"]

DATA_VARIABLE = "THRESHER_DATA"
"""The environment variable that names the folder which recipes read data sets from."""

_DATA_SETS = Path(__file__).parent / "data_sets"
_DEFAULT_FOLDER = Path(".thresher") / "data-sets"
_RETRIES = 2
_TIMEOUT_S = 60
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """One file of a data set."""

    path: str
    """Where it lies, from the data set's folder; with ``unpack``, the folder that it becomes."""

    sha256: str
    """The digest of what is downloaded, 64 lower-case hexadecimal digits."""

    url: str | None = None
    """The publisher's address; a file without one is fetched by hand, and only checked."""

    unpack: bool = False
    """Whether it is a zip or tar archive, whose content is wanted and not the archive."""

    def __post_init__(self) -> None:
        _check_inside(self.path)
        if not _SHA256.fullmatch(self.sha256):
            raise ConfigError(f'sha256 is "{self.sha256}", expected 64 lower-case hex digits')
        if self.url is not None and not self.url.startswith(("https://", "http://")):
            raise ConfigError(f'url is "{self.url}", expected an https:// address')
        if self.unpack and self.url is None:
            raise ConfigError(f'"{self.path}" is to be unpacked and has no url')


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFiles:
    """A published data set: where it comes from, and its files."""

    name: str
    """As it is called in ``thresher data get NAME``."""

    title: str
    """What it is, in a line."""

    page: str
    """The publisher's page, for people."""

    licence: str
    """Under which terms it is published."""

    folder: str
    """Where it lies in the data folder, such as ``"mulan/yeast"``: recipes read it from there."""

    files: tuple[DataFile, ...]
    """Its files."""

    def __post_init__(self) -> None:
        _check_inside(self.folder)
        if not self.files:
            raise ConfigError("files is empty")


def _check_inside(path: str) -> None:
    """Raise ConfigError for a path that could lead out of its folder."""
    parts = PurePosixPath(path).parts
    if not parts or ".." in parts or PurePosixPath(path).is_absolute() or "\\" in path:
        raise ConfigError(f'path "{path}" leaves its folder, expected a relative one without ".."')


def data_files(name: str) -> DataFiles:
    """Return what there is to know about a data set.

    Args:
        name: A data set of this package, or the path of a TOML file of one's own.

    Raises:
        ConfigError: If the file is wrong.
        NotFoundError: If there is no such data set; lists those that there are.
    """
    if name.endswith(".toml"):
        return load_toml(Path(name), DataFiles)
    known = {path.stem: path for path in _DATA_SETS.glob("*.toml")}
    if name not in known:
        raise NotFoundError(unknown_name("data set", name, known))
    return load_toml(known[name], DataFiles)


def data_folder() -> Path:
    """Return the folder of all data sets: ``THRESHER_DATA``, or one in the working folder."""
    return Path(os.environ.get(DATA_VARIABLE) or _DEFAULT_FOLDER)


def fetch(
    wanted: DataFiles, into: Path, *, progress: Callable[[str], None] = lambda _: None
) -> Path:
    """Return a data set's folder, with every file in it and checked.

    What is there already is checked and left alone. A file appears whole or not at all; one that
    breaks off is tried again.

    Args:
        wanted: The data set.
        into: The folder of all data sets; made if it does not exist.
        progress: Called with a line for each file.

    Raises:
        DataError: If a file cannot be fetched, is not what was published, or lies there with
            another content; nothing is overwritten.
    """
    folder = into / wanted.folder
    for file in wanted.files:
        place = folder / file.path
        if _is_there(file, place):
            progress(f"{place}: is there")
        elif file.url is None:
            raise DataError(
                f"{place} is missing, and {wanted.name} has no address to fetch it from: get it "
                f"from {wanted.page}, put it there, and run this again to check it"
            )
        else:
            progress(f"{place}: from {file.url}")
            _fetch_one(file, place, file.url)
    return folder


def _is_there(file: DataFile, place: Path) -> bool:
    """Return whether a file need not be fetched.

    Raises:
        DataError: If something else lies in its place.
    """
    if file.unpack:
        return place.is_dir()
    if not place.is_file():
        return False
    import pooch

    got = pooch.file_hash(str(place))
    if got != file.sha256:
        raise DataError(
            f"{place}: SHA-256 is {got}, expected {file.sha256}; it is not the published file. "
            "Move it away, and run this again"
        )
    return True


def _fetch_one(file: DataFile, place: Path, url: str) -> None:
    """Download a file into its place, or an archive's content."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if not file.unpack:
            _download(file, url, place)
            return
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".fetching-") as temporary:
            archive, content = Path(temporary) / "archive", Path(temporary) / "content"
            _download(file, url, archive)
            _unpack(archive, content, url)
            content.rename(place)  # whole or not at all
    except OSError as error:
        raise DataError(f"{place}: cannot be written: {error.strerror or error}") from error


def _download(file: DataFile, url: str, place: Path) -> None:
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.WARNING)  # what it tells is told by progress
    registry = pooch.create(
        path=place.parent,
        base_url="",
        registry={place.name: f"sha256:{file.sha256}"},
        urls={place.name: url},
        retry_if_failed=_RETRIES,
    )
    try:
        registry.fetch(place.name, downloader=pooch.HTTPDownloader(timeout=_TIMEOUT_S))
    except requests.RequestException as error:
        raise DataError(
            f"{url} cannot be fetched, tried {1 + _RETRIES} times: {error}. Run this again later; "
            "what has arrived is kept"
        ) from error
    except ValueError as error:  # pooch's word for another hash; it has deleted the file
        raise DataError(
            f"{url} is not what was published: {error} Tried {1 + _RETRIES} times"
        ) from error


def _unpack(archive: Path, content: Path, url: str) -> None:
    """Unpack a zip or tar archive whose members all stay inside.

    Raises:
        DataError: If it is no such archive, or a member would leave the folder.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                for member in opened.namelist():
                    _check_inside(member)
                opened.extractall(content)  # noqa: S202 -- each member was looked at
        else:
            with tarfile.open(archive) as opened_tar:
                opened_tar.extractall(content, filter="data")
    except (ConfigError, tarfile.TarError, zipfile.BadZipFile) as error:
        shutil.rmtree(content, ignore_errors=True)
        raise DataError(f"{url}: cannot be unpacked: {error}") from error
