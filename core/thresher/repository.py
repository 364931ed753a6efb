"""The model repository on disk: names, versions, atomic publishing, which version serves.

    model_repository/
      digits/
        config.pbtxt     written last: a version that it does not name is not served
        labels.txt
        3/model.onnx     a version's files; the number is MLflow's and is never used again

A version is staged beside the repository on the same file system, synced to disk, then renamed
into place; a publisher that dies leaves the versions that serve untouched.

Source: Triton's model repository and model configuration documents, release 24.10.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from thresher.certificate import Certificate
from thresher.decision import Decision
from thresher.durable import sync_files, sync_folder, write_durably
from thresher.errors import NotFoundError, PublishError, unknown_name

__all__ = ["CONFIG_FILE", "LABELS_FILE", "MODEL_FILE", "ModelRepository", "decision_key"]

CONFIG_FILE = "config.pbtxt"
LABELS_FILE = "labels.txt"
MODEL_FILE = "model.onnx"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_DECISION_PREFIX = "thresher.decision/"
_OWNER_LOCK = "owner.lock"


def decision_key(version: int) -> str:
    """Return the config parameter that holds a version's decision as JSON.

    One config.pbtxt serves all versions of a model, and each has its own thresholds.
    """
    return f"{_DECISION_PREFIX}{version}"


class ModelRepository:
    """A folder that Triton serves and export publishes to.

    Args:
        root: The folder; made when something is published.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def names(self) -> list[str]:
        """Return the models that have a configuration, sorted."""
        return sorted(path.parent.name for path in self.root.glob(f"*/{CONFIG_FILE}"))

    def versions(self, name: str) -> list[int]:
        """Return the versions of a model that are published, ascending.

        Raises:
            NotFoundError: If there is no such model; says which there are.
        """
        return sorted(self._decisions(self.read_config(name)))

    def serving_version(self, name: str) -> int:
        """Return the version that the configuration serves (the highest, if several).

        Raises:
            NotFoundError: If there is no such model, or its configuration names no version.
        """
        served = self.read_config(name).version_policy.specific.versions
        if not served:
            raise NotFoundError(
                f"{self.root / name / CONFIG_FILE}: its version_policy names no version, so "
                f"Thresher did not publish it; name one: {name}/VERSION"
            )
        return int(max(served))

    def decision(self, name: str, version: int) -> Decision:
        """Return the decision that a published version serves.

        Raises:
            NotFoundError: If the model or version does not exist; says which do.
        """
        decisions = self._decisions(self.read_config(name))
        if version not in decisions:
            raise NotFoundError(
                f'{self.root}: "{name}" has no version {version}; published: {sorted(decisions)}'
            )
        return Decision.from_json(decisions[version], where=f"{name}/{CONFIG_FILE}")

    def check_proven(self, name: str, version: int) -> None:
        """Raise ParityError unless a version's certificate is there and fits its bytes.

        A version that carries no decision, because something else published it, has none to prove.

        Raises:
            NotFoundError: If there is no such model.
            ParityError: If there is no certificate, or a file or the decision is another one.
        """
        if decision_key(version) in self.read_config(name).parameters:
            folder = self.model_file(name, version).parent
            Certificate.load(folder).check(folder, self.decision(name, version))

    def model_file(self, name: str, version: int) -> Path:
        """Return the path of a version's ONNX model."""
        return self.root / name / str(version) / MODEL_FILE

    def read_config(self, name: str) -> Any:
        """Return a model's `ModelConfig` message.

        Raises:
            NotFoundError: If there is no such model; says which there are.
            PublishError: If its config.pbtxt cannot be read.
        """
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2

        path = self.root / name / CONFIG_FILE
        if not _NAME.fullmatch(name) or not path.is_file():
            raise NotFoundError(f"{self.root}: {unknown_name('model', name, self.names())}")
        try:
            return text_format.Parse(
                path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig()
            )
        except (text_format.ParseError, UnicodeDecodeError) as error:
            raise PublishError(f"{path}: not a Triton configuration: {error}") from None

    @contextlib.contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """Yield an empty folder on the repository's file system, to make a version in.

        It is gone afterwards; what publishers that died have left is cleared away too.

        Raises:
            PublishError: If the name is not allowed, or the disk refuses.
        """
        if not _NAME.fullmatch(name):
            raise PublishError(
                f'"{name}" cannot name a model in Triton; expected letters, digits, "_", "-" and '
                '".", beginning with a letter or digit, at most 128'
            )
        try:
            self._staging_root.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self._staging_root / _OWNER_LOCK):
                self._clear_left_behind()
                own = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._staging_root))
                lock = filelock.FileLock(own / _OWNER_LOCK)
                lock.acquire()
            (own / "version").mkdir()
        except OSError as error:
            raise PublishError(
                f"{error.filename or self.root}: {error.strerror}; nothing was published"
            ) from None
        try:
            yield own / "version"
        finally:
            lock.release()
            shutil.rmtree(own, ignore_errors=True)

    def publish(
        self, name: str, version: int, staged: Path, config: Any, decision: Decision
    ) -> bool:
        """Put a version into the repository and make it the one that serves.

        Args:
            name: Letters, digits, ``_``, ``-`` and ``.``, beginning with a letter or digit.
            version: The version's number.
            staged: A folder from `staging` with the version's files, ``model.onnx`` among them;
                it is moved to where it belongs.
            config: The `ModelConfig` message; decisions of older versions are carried over.
            decision: What the version decides; names its labels.

        Returns:
            False where the very same model is published already and nothing had to be done.

        Raises:
            PublishError: If the version exists with another content, or the disk refuses. What
                served before is untouched.
        """
        try:
            with filelock.FileLock(self._staging_root / f"{name}.lock"):
                text = self._with_older_decisions(name, version, config)
                same = self._is_same(name, version, staged)
                if same and self._config_text(name) == text:
                    return False
                folder = self.root / name
                if not same:
                    sync_files(staged)
                    folder.mkdir(parents=True, exist_ok=True)
                    staged.rename(folder / str(version))
                    sync_folder(folder)
                labels = "".join(f"{_one_line(label)}\n" for label in decision.labels)
                for file, content in ((LABELS_FILE, labels), (CONFIG_FILE, text)):
                    written = self._staging_root / f"{name}.{file}"
                    write_durably(written, content.encode())
                    written.replace(folder / file)
                sync_folder(folder)
        except OSError as error:
            where = error.filename or self.root
            raise PublishError(
                f"{where}: {error.strerror}; version {version} of {name} was not published"
            ) from None
        return True

    def unpublish(self, name: str, version: int) -> int:
        """Take a version that does not serve out of the repository; return the bytes set free.

        Raises:
            NotFoundError: If there is no such model.
            PublishError: If the version serves, or the disk refuses.
        """
        if version == self.serving_version(name):
            raise PublishError(f"version {version} of {name} serves; publish another version first")
        folder = self.root / name / str(version)
        try:
            with filelock.FileLock(self._staging_root / f"{name}.lock"):
                config = self.read_config(name)
                config.parameters.pop(decision_key(version), None)
                written = self._staging_root / f"{name}.{CONFIG_FILE}"
                write_durably(written, _text_of(config).encode())
                written.replace(self.root / name / CONFIG_FILE)
                freed = sum(
                    path.stat().st_size
                    for path in folder.glob("*")
                    if path.is_file() and path.stat().st_nlink == 1
                )
                shutil.rmtree(folder, ignore_errors=False)
        except OSError as error:
            raise PublishError(
                f"{error.filename or folder}: {error.strerror}; version {version} of {name} is "
                "no longer listed, but its files remain"
            ) from None
        return freed

    @property
    def _staging_root(self) -> Path:
        return self.root.parent / f".{self.root.name}.staging"

    def _clear_left_behind(self) -> None:
        """Remove staging folders whose maker no longer holds their lock."""
        for folder in self._staging_root.iterdir():
            if not folder.is_dir():
                continue
            lock = filelock.FileLock(folder / _OWNER_LOCK)
            try:
                lock.acquire(blocking=False)
            except filelock.Timeout:
                continue
            lock.release()
            shutil.rmtree(folder, ignore_errors=True)

    def _is_same(self, name: str, version: int, staged: Path) -> bool:
        """Return whether this very model is there; clear what a publisher that died left behind."""
        folder = self.root / name / str(version)
        if not folder.exists():
            return False
        if _digests(folder) == _digests(staged):
            return True
        if version in self._published(name):
            raise PublishError(
                f"{folder} is published with another content; a version number is never used "
                "again. Register a new version and export that"
            )
        shutil.rmtree(folder)
        return False

    def _with_older_decisions(self, name: str, version: int, config: Any) -> str:
        """Return the configuration as text, with the decisions of the versions that stay."""
        merged = type(config)()
        merged.CopyFrom(config)
        for other, text in self._published(name).items():
            if other != version and (self.root / name / str(other)).is_dir():
                merged.parameters[decision_key(other)].string_value = text
        return _text_of(merged)

    def _published(self, name: str) -> dict[int, str]:
        """Return the decisions in a model's configuration, none where it has no configuration."""
        try:
            return self._decisions(self.read_config(name))
        except NotFoundError:
            return {}

    def _config_text(self, name: str) -> str:
        path = self.root / name / CONFIG_FILE
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    @staticmethod
    def _decisions(config: Any) -> dict[int, str]:
        return {
            int(key.removeprefix(_DECISION_PREFIX)): value.string_value
            for key, value in config.parameters.items()
            if key.startswith(_DECISION_PREFIX)
        }


def _one_line(label: str) -> str:
    """Return a label as one line: Triton's label file has one a line and no escapes."""
    return label.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def _text_of(config: Any) -> str:
    from google.protobuf import text_format

    return str(text_format.MessageToString(config, as_utf8=True))


def _digests(folder: Path) -> dict[str, str]:
    """Return what identifies a version: its model's files with their SHA-256."""
    found = {}
    for path in sorted(folder.glob(f"{MODEL_FILE}*")):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
