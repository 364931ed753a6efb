"""The model repository on disk: names, versions, atomic publishing, which version serves.

    model_repository/
      digits/
        config.pbtxt     written last: a version that it does not name is not served
        labels.txt       labels.N.txt for a version whose labels are others
        configs/3.pbtxt  config.pbtxt as it is when this version serves
        3/model.onnx     a version's files; the number is MLflow's and is never used again

A version is staged beside the repository on the same file system, synced to disk, then renamed
into place; a model's first version brings its whole folder in one rename. A publisher that dies at
any of `PUBLISH_STEPS` leaves what serves untouched.

Source: Triton's model repository and model configuration documents, release 24.10.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from thresher import proof
from thresher.certificate import (
    CERTIFICATE_FILE,
    NEXT_CERTIFICATE_FILE,
    Certificate,
    file_digest,
)
from thresher.config_pbtxt import (
    CONFIG_FILE,
    LABELS_FILE,
    certificate_key,
    config_text,
    copy_version,
    decision_key,
    decisions_of,
    forget_version,
    labels_file_of,
    labels_text,
    own_config_file,
)
from thresher.decision import Decision
from thresher.decisive_keys import decisive_keys
from thresher.durable import fault_point, sync_files, sync_folder, write_durably
from thresher.errors import NotFoundError, ParityError, PublishError
from thresher.published_models import (
    MODEL_FILE,
    NAME,
    TOKENIZER_FILE,
    TOKENS_FILE,
    PublishedModels,
)
from thresher.served_state import ServedState
from thresher.staging import Staging

__all__ = [
    "CONFIG_FILE",
    "LABELS_FILE",
    "MODEL_FILE",
    "PUBLISH_STEPS",
    "ModelRepository",
    "decision_key",
]


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


class ModelRepository(PublishedModels):
    """A folder that Triton serves and export publishes to.

    Args:
        root: The folder; made when something is published.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._staging = Staging(self.root.parent / f".{self.root.name}.staging")

    def staging(self, name: str) -> AbstractContextManager[Path]:
        """Yield an empty folder on the repository's file system, to make a version in.

        It is gone afterwards; what publishers that died have left is cleared away too.

        Raises:
            PublishError: If the name is not allowed, or the disk refuses, also while it is used.
        """
        if not NAME.fullmatch(name):
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
        serve: bool = True,
        since: ServedState | None = None,
    ) -> bool:
        """Put a version into the repository and, as a rule, make it the one that serves.

        Args:
            name: Letters, digits, ``_``, ``-`` and ``.``, beginning with a letter or digit.
            version: The version's number.
            staged: A folder from `staging` with the version's files, ``model.onnx`` among them;
                it is moved to where it belongs.
            config: The `ModelConfig` message; decisions of older versions are carried over.
            decision: What the version decides; names its labels.
            beside: Files that the configuration names, by path below the model's folder; their
                names begin with the version's number and a dot.
            serve: False leaves what serves as it is; a model's first version serves always.
            since: What served when the version was chosen: where something else has changed that,
                what serves stays as it is too.

        Returns:
            False where the very same model is published already and nothing had to be done.

        Raises:
            PublishError: If the version exists with another content, or the disk refuses. What
                served before is untouched.
        """
        labels = labels_text(decision.labels)
        try:
            with self._staging.lock(name):
                if since is not None and not since.is_still(ServedState.of(self, name)):
                    serve = False
                labels_file = self._labels_file(name, version, labels)
                own = _with_labels(config, labels_file)
                same = self._is_same(name, version, staged)
                folder = self.root / name
                self._bind(staged, folder / str(version) if same else staged, own, version)
                text = self._config_with(name, version, own, serve=serve)
                beside = {**(beside or {}), own_config_file(version): config_text(own).encode()}
                digest = own.parameters[certificate_key(version)].string_value
                if same and self._config_text(name) == text:
                    _take_over_certificate(folder / str(version), digest)
                    return False
                # a model that is new comes with its whole folder or not at all
                home = folder if folder.exists() else staged.with_name("model")
                home.mkdir(exist_ok=True)
                if not same:
                    sync_files(staged)
                    fault_point("files-synced")
                    staged.rename(home / str(version))
                    sync_folder(home)
                    fault_point("version-moved")
                else:
                    _replace(staged, CERTIFICATE_FILE, folder / str(version), NEXT_CERTIFICATE_FILE)
                for file, bytes_beside in beside.items():
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
                _take_over_certificate(home / str(version), digest)
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

    def serve_versions(self, name: str, versions: Sequence[int]) -> None:
        """Make versions the ones that serve, under the highest one's own configuration.

        The model's companions follow it.

        Raises:
            NotFoundError: If there is no such model, or one of the versions is not published.
            PublishError: If the disk refuses; what served before is untouched.
        """
        if not versions:
            raise PublishError(f"{name}: no version to serve; name one of {self.versions(name)}")
        try:
            with self.staging(name) as staged, self._staging.lock(name):
                for version in versions:
                    self.decision(name, version)
                highest = max(versions)
                own = self.own_config(name, highest)
                del own.version_policy.specific.versions[:]
                own.version_policy.specific.versions.extend(sorted(set(versions)))
                text = self._config_with(name, highest, own)
                write_durably(staged / CONFIG_FILE, text.encode())
                (staged / CONFIG_FILE).replace(self.root / name / CONFIG_FILE)
                sync_folder(self.root / name)
        except OSError as error:
            raise PublishError(
                f"{error.filename or self.root}: {error.strerror}; {name} serves what it served"
            ) from None
        self.align_companions(name)

    def align_companions(self, name: str) -> list[str]:
        """Let a model's companions serve what it serves; return those that were changed.

        A companion that has none of these versions is left as it is: what it answers then is that
        the version it asks is not served.

        Raises:
            NotFoundError: If there is no such model.
            PublishError: If the disk refuses.
        """
        changed = []
        for companion in self.companions(name):
            published = self.versions(companion)
            wanted = [number for number in self.served_versions(name) if number in published]
            if wanted and wanted != self.served_versions(companion):
                self.serve_versions(companion, wanted)
                changed.append(companion)
        return changed

    def recertify(
        self,
        name: str,
        version: int,
        *,
        register: Callable[[str, int, str], None] = lambda *_: None,
    ) -> list[str]:
        """Issue a version's certificate again, so that it binds all that decides an answer.

        For certificates of releases that did not bind the configuration. What serves goes on, and
        at each moment the version is what a certificate says.

        Args:
            name: The model.
            version: Its version.
            register: Gets the registered model, version and digest of each certificate before it
                counts: first of those that are to be renewed, since copies of them may be served
                elsewhere, then of each new one. Nothing is changed where it raises at first.

        Returns:
            The models whose certificate is a new one: a companion, then the model itself; none
            where theirs bind everything already.

        Raises:
            NotFoundError: If there is no such model or version.
            ParityError: If it is not what was proven, by what its certificate binds.
            PublishError: If the disk refuses.
        """
        # a companion first, since it may name the model's old one
        each_of = [each for each in self.companions(name) if version in self.versions(each)]
        old = []
        for each in (*each_of, name):
            self.decision(each, version)
            self.check_proven(each, version)
            folder = self.root / each / str(version)
            if not Certificate.load(folder).binds_configuration:
                old.append((each, file_digest(folder / CERTIFICATE_FILE)))
        for each, digest in old:
            register(self.registered_name(each), version, digest)
        for each, _ in old:
            self._recertify(each, version, register)
        return [each for each, _ in old]

    def _recertify(
        self, name: str, version: int, register: Callable[[str, int, str], None]
    ) -> None:
        """Renew one model's certificate."""
        folder = self.root / name
        try:
            with self.staging(name) as staged, self._staging.lock(name):
                self.check_proven(name, version)
                if Certificate.load(folder / str(version)).binds_configuration:
                    return  # another process has done it meanwhile
                own, published = self.own_config(name, version), self.read_config(name)
                self._bind(staged, folder / str(version), own, version)
                proof.check_proven(self, name, version, renewed=Certificate.load(staged))
                key = certificate_key(version)
                digest = own.parameters[key].string_value
                register(self.registered_name(name), version, digest)
                published.parameters[key].CopyFrom(own.parameters[key])
                _replace(staged, CERTIFICATE_FILE, folder / str(version), NEXT_CERTIFICATE_FILE)
                fault_point("certificate-written")
                for file, config in ((own_config_file(version), own), (CONFIG_FILE, published)):
                    (folder / file).parent.mkdir(exist_ok=True)
                    write_durably(staged / CONFIG_FILE, config_text(config).encode())
                    _replace(staged, CONFIG_FILE, (folder / file).parent, Path(file).name)
                    fault_point(f"{Path(file).stem}-renewed")
                _take_over_certificate(folder / str(version), digest)
        except OSError as error:
            raise PublishError(
                f"{error.filename or self.root}: {error.strerror}; {name} serves what it served"
            ) from None

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
                forget_version(version, config)
                text = config_text(config)
                write_durably(staged / CONFIG_FILE, text.encode())
                (staged / CONFIG_FILE).replace(self.root / name / CONFIG_FILE)
                sync_folder(self.root / name)
                labels = labels_file_of(version)
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

    def _bind(self, staged: Path, proven: Path, own: Any, version: int) -> None:
        """Let a certificate name what decides an answer, and a configuration that certificate.

        Args:
            staged: Where the certificate is written.
            proven: The folder with the certificate that says what was proven; where that binds the
                configuration already, its bytes stay. Without one there is nothing to bind.
            own: The version's `ModelConfig`; gets the parameter with the certificate's digest.
            version: Its number.
        """
        try:
            certificate = Certificate.load(proven)
        except ParityError:
            return
        bound = dataclasses.replace(certificate, configuration=decisive_keys(own, version))
        if bound == certificate:
            content = (proven / CERTIFICATE_FILE).read_bytes()
        else:
            content = bound.to_json().encode()
        write_durably(staged / CERTIFICATE_FILE, content)
        digest = file_digest(staged / CERTIFICATE_FILE)
        own.parameters[certificate_key(version)].string_value = digest

    def _labels_file(self, name: str, version: int, labels: str) -> str:
        """Return the file that names a version's labels: its own, where the model's are others.

        The one that the serving version reads is never written over.
        """
        path = self.root / name / LABELS_FILE
        is_same = not path.is_file() or path.read_bytes() == labels.encode()
        return LABELS_FILE if is_same else labels_file_of(version)

    def _is_same(self, name: str, version: int, staged: Path) -> bool:
        """Return whether this very model is there; clear what a publisher that died left behind."""
        folder = self.root / name / str(version)
        if not folder.exists():
            return False
        if _digests(folder) == _digests(staged):
            if _is_certified(folder) or not _is_certified(staged):
                return True
        elif version in self._published(name):
            raise PublishError(
                f"{folder} is published with another content; a version number is never used "
                "again. Register a new version and export that"
            )
        shutil.rmtree(folder)
        return False

    def _config_with(self, name: str, version: int, own: Any, *, serve: bool = True) -> str:
        """Return config.pbtxt with a version in it, and what it says of the versions that stay.

        Args:
            name: The model.
            version: The version.
            own: Its own configuration.
            serve: Whether that is to be the model's from now on.
        """
        try:
            published = self.read_config(name)
        except NotFoundError:
            return config_text(own)
        if not serve and published.version_policy.specific.versions:
            copy_version(version, source=own, target=published)
            return config_text(published)
        merged = type(own)()
        merged.CopyFrom(own)
        for other in decisions_of(published):
            if other != version and (self.root / name / str(other)).is_dir():
                copy_version(other, source=published, target=merged)
        return config_text(merged)

    def _published(self, name: str) -> dict[int, str]:
        """Return the decisions in a model's configuration, none where it has no configuration."""
        try:
            return decisions_of(self.read_config(name))
        except NotFoundError:
            return {}

    def _config_text(self, name: str) -> str:
        path = self.root / name / CONFIG_FILE
        return path.read_text(encoding="utf-8") if path.is_file() else ""


def _with_labels(config: Any, labels_file: str) -> Any:
    """Return a configuration that names a file of labels."""
    own = type(config)()
    own.CopyFrom(config)
    for output in own.output:
        if output.label_filename == LABELS_FILE:
            output.label_filename = labels_file
    return own


def _bytes_set_free(folder: Path) -> int:
    """Return how much space the files of a folder take that no other version shares."""
    files = (path.stat() for path in folder.glob("*") if path.is_file())
    return sum(status.st_size for status in files if status.st_nlink == 1)


def _digests(folder: Path) -> dict[str, str]:
    """Return what identifies a version: its model's files, or its tokenizer's, with SHA-256."""
    texts = [path for file in (TOKENIZER_FILE, TOKENS_FILE) if (path := folder / file).is_file()]
    files = sorted(folder.glob(f"{MODEL_FILE}*")) or texts
    return {path.name: file_digest(path) for path in files}


def _is_certified(folder: Path) -> bool:
    """Return whether a certificate can be read there."""
    try:
        Certificate.load(folder)
    except ParityError:
        return False
    return True


def _replace(source: Path, name: str, target: Path, new_name: str) -> None:
    """Move a file that is on the disk to where it belongs, over what is there."""
    if (source / name).is_file():
        (source / name).replace(target / new_name)
        sync_folder(target)


def _take_over_certificate(folder: Path, digest: str) -> None:
    """Let the next certificate be the version's, now that both configurations name its digest."""
    following = folder / NEXT_CERTIFICATE_FILE
    if following.is_file() and file_digest(following) == digest:
        _replace(folder, NEXT_CERTIFICATE_FILE, folder, CERTIFICATE_FILE)
