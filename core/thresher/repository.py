"""The model repository on disk: names, versions, atomic publishing, which version serves.

    model_repository/
      digits/
        config.pbtxt     written last: a version that it does not name is not served
        labels.txt       labels.N.txt for a version whose labels are others
        3/model.onnx     a version's files; the number is MLflow's and is never used again

A version is staged beside the repository on the same file system, synced to disk, then renamed
into place; a model's first version brings its whole folder in one rename. A publisher that dies at
any of `PUBLISH_STEPS` leaves what serves untouched.

Source: Triton's model repository and model configuration documents, release 24.10.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from thresher.certificate import Certificate
from thresher.decision import Decision
from thresher.durable import fault_point, sync_files, sync_folder, write_durably
from thresher.errors import NotFoundError, PublishError, unknown_name
from thresher.staging import Staging

__all__ = [
    "CONFIG_FILE",
    "LABELS_FILE",
    "MODEL_FILE",
    "PUBLISH_STEPS",
    "ModelRepository",
    "decision_key",
]

CONFIG_FILE = "config.pbtxt"
LABELS_FILE = "labels.txt"
MODEL_FILE = "model.onnx"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_DECISION_PREFIX = "thresher.decision/"

PUBLISH_STEPS = (
    "staging-made",
    "files-synced",
    "version-moved",
    "beside-moved",
    "labels-written",
    "labels-moved",
    "config-written",
    "config-moved",
    "model-synced",
    "model-moved",
    "published",
)
"""The fault points of publishing, in order; "model-moved" is of a model's first version alone."""


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
        self._staging = Staging(self.root.parent / f".{self.root.name}.staging")

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
        served = self.served_versions(name)
        if not served:
            raise NotFoundError(
                f"{self.root / name / CONFIG_FILE}: its version_policy names no version, so "
                f"Thresher did not publish it; name one: {name}/VERSION"
            )
        return max(served)

    def served_versions(self, name: str) -> list[int]:
        """Return the versions that the configuration's policy names, ascending; none if it is open.

        Raises:
            NotFoundError: If there is no such model.
        """
        return sorted(int(v) for v in self.read_config(name).version_policy.specific.versions)

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

    def staging(self, name: str) -> AbstractContextManager[Path]:
        """Yield an empty folder on the repository's file system, to make a version in.

        It is gone afterwards; what publishers that died have left is cleared away too.

        Raises:
            PublishError: If the name is not allowed, or the disk refuses, also while it is used.
        """
        if not _NAME.fullmatch(name):
            raise PublishError(
                f'"{name}" cannot name a model in Triton; expected letters, digits, "_", "-" and '
                '".", beginning with a letter or digit, at most 128'
            )
        return self._staging.folder(name)

    def publish(
        self,
        name: str,
        version: int,
        staged: Path,
        config: Any,
        decision: Decision,
        *,
        beside: Mapping[str, bytes] | None = None,
    ) -> bool:
        """Put a version into the repository and make it the one that serves.

        Args:
            name: Letters, digits, ``_``, ``-`` and ``.``, beginning with a letter or digit.
            version: The version's number.
            staged: A folder from `staging` with the version's files, ``model.onnx`` among them;
                it is moved to where it belongs.
            config: The `ModelConfig` message; decisions of older versions are carried over.
            decision: What the version decides; names its labels.
            beside: Files that the configuration names, by path below the model's folder; their
                names begin with the version's number and a dot.

        Returns:
            False where the very same model is published already and nothing had to be done.

        Raises:
            PublishError: If the version exists with another content, or the disk refuses. What
                served before is untouched.
        """
        labels = "".join(f"{_one_line(label)}\n" for label in decision.labels)
        try:
            with self._staging.lock(name):
                labels_file = self._labels_file(name, version, labels)
                text = self._with_older_decisions(name, version, config, labels_file)
                same = self._is_same(name, version, staged)
                if same and self._config_text(name) == text:
                    return False
                folder = self.root / name
                # a model that is new comes with its whole folder or not at all
                home = folder if folder.exists() else staged.with_name("model")
                home.mkdir(exist_ok=True)
                if not same:
                    sync_files(staged)
                    fault_point("files-synced")
                    staged.rename(home / str(version))
                    sync_folder(home)
                    fault_point("version-moved")
                for file, bytes_beside in (beside or {}).items():
                    (home / file).parent.mkdir(exist_ok=True)
                    write_durably(staged.with_name("beside"), bytes_beside)
                    staged.with_name("beside").replace(home / file)
                    sync_folder((home / file).parent)
                fault_point("beside-moved")
                for step, file, content in (
                    ("labels", labels_file, labels),
                    ("config", CONFIG_FILE, text),
                ):
                    write_durably(staged.with_name(file), content.encode())
                    fault_point(f"{step}-written")
                    staged.with_name(file).replace(home / file)
                    fault_point(f"{step}-moved")
                sync_folder(home)
                fault_point("model-synced")
                if home != folder:
                    self.root.mkdir(parents=True, exist_ok=True)
                    home.rename(folder)
                    fault_point("model-moved")
                    sync_folder(self.root)
                fault_point("published")
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
        folder = self.root / name / str(version)
        try:
            with self.staging(name) as staged, self._staging.lock(name):
                if version in self.served_versions(name):
                    raise PublishError(
                        f"version {version} of {name} serves; publish another version first"
                    )
                config = self.read_config(name)
                for key in _keys_of(config, version):
                    del config.parameters[key]
                text = _text_of(config)
                write_durably(staged / CONFIG_FILE, text.encode())
                (staged / CONFIG_FILE).replace(self.root / name / CONFIG_FILE)
                sync_folder(self.root / name)
                labels = _labels_of(version)
                if f'"{labels}"' not in text:
                    (self.root / name / labels).unlink(missing_ok=True)
                for path in (self.root / name).glob(f"*/{version}.*"):
                    if path.parent.name.isdecimal() or path.name in text:
                        continue
                    path.unlink()
                freed = _bytes_set_free(folder)
                if folder.exists():
                    folder.rename(staged / str(version))  # gone at once, whatever its size
        except OSError as error:
            raise PublishError(
                f"{error.filename or folder}: {error.strerror}; version {version} of {name} is "
                "perhaps no longer listed, but its files remain"
            ) from None
        return freed

    def unlisted(self, name: str) -> list[int]:
        """Return the versions whose files lie there though config.pbtxt does not name them.

        A publisher that died before its last step leaves such a one; the same version's next
        publication takes its place.

        Raises:
            NotFoundError: If there is no such model.
        """
        listed = {*self.versions(name), *self.served_versions(name)}
        folders = (path for path in (self.root / name).iterdir() if path.is_dir())
        return sorted({int(f.name) for f in folders if f.name.isdecimal()} - listed)

    def left_behind(self) -> list[Path]:
        """Return the staging folders whose maker is gone."""
        return self._staging.left_behind()

    def clear_left_behind(self) -> list[Path]:
        """Remove the staging folders whose maker is gone; return them."""
        return self._staging.clear_left_behind()

    def _labels_file(self, name: str, version: int, labels: str) -> str:
        """Return the file that names a version's labels: its own, where the model's are others.

        The one that the serving version reads is never written over.
        """
        path = self.root / name / LABELS_FILE
        is_same = not path.is_file() or path.read_bytes() == labels.encode()
        return LABELS_FILE if is_same else _labels_of(version)

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

    def _with_older_decisions(self, name: str, version: int, config: Any, labels_file: str) -> str:
        """Return the configuration as text, with the decisions of the versions that stay."""
        merged = type(config)()
        merged.CopyFrom(config)
        for output in merged.output:
            if output.label_filename == LABELS_FILE:
                output.label_filename = labels_file
        for other in self._published(name):
            if other != version and (self.root / name / str(other)).is_dir():
                published = self.read_config(name)
                for key in _keys_of(published, other):
                    merged.parameters[key].CopyFrom(published.parameters[key])
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


def _keys_of(config: Any, version: int) -> list[str]:
    """Return the parameters that concern one version: its decision, and where it comes from."""
    keys = (key.rpartition("/") for key in config.parameters if key.startswith("thresher."))
    return ["".join(parts) for parts in keys if parts[2] == str(version)]


def _labels_of(version: int) -> str:
    """Return the file name of a version's own labels."""
    return f"{Path(LABELS_FILE).stem}.{version}{Path(LABELS_FILE).suffix}"


def _bytes_set_free(folder: Path) -> int:
    """Return how much space the files of a folder take that no other version shares."""
    files = (path.stat() for path in folder.glob("*") if path.is_file())
    return sum(status.st_size for status in files if status.st_nlink == 1)


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
