"""Is this what was proven for NAME/N? One answer for all that load, score or show a version.

What decides an answer: the files of the version's folder, every file that the configuration names,
config.pbtxt as Triton reads it, configs/N.pbtxt as a rollout loads it, the file of labels, the
version's number and the version policy. The certificate binds them, both configurations name the
certificate's digest, and MLflow holds the digest of each certificate that was issued.

Not covered: what changes between this look and Triton's own, and anyone who can write to the
repository and to MLflow's tags too.
"""

from __future__ import annotations

import logging
import re
import stat
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from thresher.certificate import (
    CERTIFICATE_FILE,
    NEXT_CERTIFICATE_FILE,
    UNPROVEN,
    Certificate,
    file_digest,
)
from thresher.config_pbtxt import (
    COMPANION_KEY,
    CONFIG_FILE,
    TEXT_SUFFIX,
    certificate_key,
    decision_key,
    is_companion,
    labels_text,
    own_config_file,
    read_config,
)
from thresher.decision import Decision
from thresher.decisive_keys import decisive_keys, differences, of_version
from thresher.errors import DecisionError, ParityError, PublishError

__all__ = ["check_proven", "check_served", "is_foreign", "loaded_versions"]

_LABELS = re.compile(r"labels(\.[1-9][0-9]*)?\.txt")

_BESIDE_VERSIONS = {CONFIG_FILE, "configs", "warmup"}
"""What a model's folder holds besides its versions and their labels. Triton takes a backend's
library or stub from there too, so that anything else counts."""

_logger = logging.getLogger("thresher.proof")
_warned: set[tuple[Path, str, int]] = set()


class _Repository(Protocol):
    """What is asked of a model repository."""

    root: Path
    registered: Callable[[str, int], Collection[str]] | None
    registered_decision: Callable[[str, int], str] | None

    def read_config(self, name: str) -> Any: ...

    def registered_name(self, name: str) -> str: ...


def check_served(repository: _Repository, name: str) -> None:
    """Raise ParityError unless every version that Triton would load of a model is what was proven.

    Raises:
        NotFoundError: If there is no such model.
        ParityError: If one of them is not.
    """
    if is_foreign(repository, name):
        return
    for version in loaded_versions(repository, name):
        check_proven(repository, name, version)


def check_proven(
    repository: _Repository, name: str, version: int, *, renewed: Certificate | None = None
) -> None:
    """Raise ParityError unless a version is what was proven for this name and number.

    A model that bears no mark of Thresher, since something else published it, has nothing to prove.
    A certificate that does not bind the configuration, as those of earlier releases, is held
    against what it does bind, and one warning is logged.

    Args:
        repository: Where the version is published.
        name: The model.
        version: The version.
        renewed: A certificate that is to be issued, taken in place of those in the folder.

    Raises:
        NotFoundError: If there is no such model.
        ParityError: If it is not; says each thing that differs.
    """
    if is_foreign(repository, name):
        return
    look = _Look(repository, name, version)
    look.compare(renewed)
    if look.wrong:
        wrong = "; ".join(dict.fromkeys(look.wrong))
        raise ParityError(f"{look.folder} is not what was proven: {wrong}. {UNPROVEN}")
    if look.is_of_earlier_release and (repository.root, name, version) not in _warned:
        _warned.add((repository.root, name, version))
        _logger.warning(
            "Warning: the certificate of %s/%d was issued by an earlier release and does not bind "
            "Triton's configuration. Renew it: thresher repository recertify %s/%d",
            *(name, version, name, version),
        )


def is_foreign(repository: _Repository, name: str) -> bool:
    """Return whether a model bears no mark of Thresher: something else published it.

    Raises:
        NotFoundError: If there is no such model.
    """
    folder = repository.root / name
    try:
        config = repository.read_config(name)
    except PublishError:
        return False  # what cannot be read is not taken for another tool's
    marks = (
        any(key.startswith("thresher.") for key in config.parameters),
        any(folder.glob("configs/*.pbtxt")),
        any(folder.glob(f"*/{CERTIFICATE_FILE}")),
    )
    return not any(marks) and not _is_registered(repository, name)


def _is_registered(repository: _Repository, name: str) -> bool:
    """Return whether MLflow holds a certificate of a version that is there, marks or no marks."""
    if repository.registered is None:
        return False
    folders = (path.name for path in (repository.root / name).iterdir() if path.is_dir())
    versions = (int(folder) for folder in folders if _is_number(folder))
    return any(_registered(repository, name, version)[1] for version in versions)


def _registered(repository: _Repository, name: str, version: int) -> tuple[str, Collection[str]]:
    """Return the registered model that MLflow holds certificates of, and their digests.

    NAME.text counts as the companion of NAME where its configuration does not say so any more.
    """
    try:
        own = repository.registered_name(name)
    except PublishError:  # what cannot be read is said elsewhere
        own = name
    found: Collection[str] = ()
    for each in dict.fromkeys((own, name.removesuffix(TEXT_SUFFIX))):
        if repository.registered is not None and (found := repository.registered(each, version)):
            return each, found
    return own, found


def loaded_versions(repository: _Repository, name: str) -> list[int]:
    """Return the versions that Triton loads by the version policy, ascending.

    Raises:
        NotFoundError: If there is no such model.
        ParityError: If config.pbtxt cannot be read.
    """
    try:
        policy = repository.read_config(name).version_policy
    except PublishError as error:
        raise ParityError(f"{error}. {UNPROVEN}") from None
    choice = policy.WhichOneof("policy_choice")
    if choice == "specific":
        return sorted({int(version) for version in policy.specific.versions})
    folders = (path.name for path in (repository.root / name).iterdir() if path.is_dir())
    there = sorted(int(folder) for folder in folders if _is_number(folder))
    return there if choice == "all" else there[-(policy.latest.num_versions or 1) :]


@dataclass
class _Look:
    """One look at a version, and what is wrong with it."""

    repository: _Repository
    name: str
    version: int
    wrong: list[str] = field(default_factory=list)
    is_of_earlier_release: bool = False

    @property
    def folder(self) -> Path:
        return self.repository.root / self.name / str(self.version)

    def compare(self, renewed: Certificate | None) -> None:
        if renewed is not None:
            for file, config in self._configurations(needs_both=False):
                self._configuration(file, config, renewed)
            self._files(renewed)
            self._strangers()
            return
        main = Certificate.load(self.folder)  # nothing is proven without it
        self.is_of_earlier_release = not main.binds_configuration
        issued = {file_digest(self.folder / CERTIFICATE_FILE): main}
        if (self.folder / NEXT_CERTIFICATE_FILE).is_file():
            following = Certificate.load(self.folder, NEXT_CERTIFICATE_FILE)
            issued[file_digest(self.folder / NEXT_CERTIFICATE_FILE)] = following
            if not following.binds_configuration:  # none was ever issued so
                self.wrong.append(f"{NEXT_CERTIFICATE_FILE} does not bind Triton's configuration")
        used = set()
        for file, config in self._configurations(needs_both=main.binds_configuration):
            digest = self._named(config, issued)
            if digest is None:
                self.wrong.append(f"{file} names another certificate than {CERTIFICATE_FILE}")
                continue
            self._configuration(file, config, issued[digest])
            used.add(digest)
        for digest in used:
            self._files(issued[digest])
            self._registration(digest, issued[digest])
        if not self.is_of_earlier_release:
            self._strangers()

    def _configurations(self, *, needs_both: bool) -> Iterator[tuple[str, Any]]:
        """Yield Triton's configuration and the version's own."""
        root = self.repository.root / self.name
        for file in (CONFIG_FILE, own_config_file(self.version)):
            if not (root / file).is_file():
                if needs_both:
                    self.wrong.append(f"{file} is missing")
                continue
            try:
                yield file, read_config(root / file)
            except (PublishError, OSError) as error:
                self.wrong.append(f"{file} cannot be read: {error}")

    def _named(self, config: Any, issued: dict[str, Certificate]) -> str | None:
        """Return the digest of the certificate that a configuration names; None of another one.

        Args:
            config: The configuration.
            issued: Certificates by their digests, the one in `CERTIFICATE_FILE` first.
        """
        key = certificate_key(self.version)
        named = config.parameters[key].string_value if key in config.parameters else ""
        if named in issued:
            return named
        if named and named != self._digest_of_companioned(config):
            return None
        # earlier releases did not always write one, and for a companion its model's
        main = next(iter(issued))
        return None if issued[main].binds_configuration else main

    def _digest_of_companioned(self, config: Any) -> str | None:
        """Return the digest of the certificate of the model that a companion asks."""
        if COMPANION_KEY not in config.parameters:
            return None
        folder = self.repository.root / config.parameters[COMPANION_KEY].string_value
        path = folder / str(self.version) / CERTIFICATE_FILE
        return file_digest(path) if path.is_file() else None

    def _configuration(self, file: str, config: Any, certificate: Certificate) -> None:
        """Compare one of the two configurations, and what it names, with a certificate."""
        if COMPANION_KEY in config.parameters and not is_companion(config, self.name):
            self.wrong.append(f"{file}: {COMPANION_KEY} names another model than its name does")
        if (certificate.model, certificate.version) != (self.name, self.version):
            self.wrong.append(f"the certificate is {certificate.model}/{certificate.version}'s")
        loads = file != CONFIG_FILE or self._is_loaded(config)
        decision = self._decision(file, config, certificate)
        if certificate.binds_configuration:
            bound, found = certificate.configuration, decisive_keys(config, self.version)
            if not loads:
                bound, found = of_version(bound), of_version(found)
            if decision is None:  # said already
                bound, found = dict(bound), dict(found)
                for keys in (bound, found):
                    keys.pop("parameters.thresher.decision", None)
            self.wrong += [f"{file}: {text}" for text in differences(bound, found)]
        if loads:
            self._named_files(file, config, certificate)
            if decision is not None:
                self._labels(file, config, decision)

    def _is_loaded(self, config: Any) -> bool:
        """Return whether config.pbtxt lets Triton load the version; its policy names versions."""
        policy = config.version_policy
        if policy.WhichOneof("policy_choice") != "specific":
            self.wrong.append(f"{CONFIG_FILE}: version_policy names no versions")
            return True
        return self.version in policy.specific.versions

    def _decision(self, file: str, config: Any, certificate: Certificate) -> Decision | None:
        key = decision_key(self.version)
        try:
            text = config.parameters[key].string_value if key in config.parameters else "null"
            decision = Decision.from_json(text, where=file)
        except DecisionError as error:
            self.wrong.append(f"the decision in {file} is none: {error}")
            return None
        if decision.digest != certificate.decision_sha256:
            self.wrong.append(f"the decision in {file} is another one")
            return None
        return decision

    def _named_files(self, file: str, config: Any, certificate: Certificate) -> None:
        """Check that each file that Triton is pointed to is one that was proven."""
        named = [
            config.default_model_filename,
            *config.cc_model_filenames.values(),
            *config.model_operations.op_library_filename,
        ]
        self.wrong += [
            f"{file} names the file {each}, which is not in the certificate"
            for each in named
            if each and each not in certificate.files
        ]

    def _labels(self, file: str, config: Any, decision: Decision) -> None:
        expected = labels_text(decision.labels).encode()
        for labels in sorted({output.label_filename for output in config.output} - {""}):
            path = self.repository.root / self.name / labels
            try:
                if not path.is_file():
                    self.wrong.append(f"{labels}, which {file} names, is missing")
                elif path.read_bytes() != expected:
                    self.wrong.append(f"{labels} has other labels than the decision")
            except OSError as error:
                self.wrong.append(f"{labels} cannot be read: {error.strerror}")

    def _files(self, certificate: Certificate) -> None:
        for name, digest in certificate.files.items():
            path = self.folder / name
            try:
                if not path.is_file():  # nor a folder, a pipe, or a link to nowhere
                    self.wrong.append(f"{name} is missing")
                elif _digest_of_now(path) != digest:
                    self.wrong.append(f"{name} has other bytes")
            except OSError as error:
                self.wrong.append(f"{name} cannot be read: {error.strerror}")
        known = {*certificate.files, CERTIFICATE_FILE, NEXT_CERTIFICATE_FILE}
        unknown = {path.name for path in self.folder.iterdir()} - known
        self.wrong += [f"{name} is not in the certificate" for name in sorted(unknown)]

    def _strangers(self) -> None:
        """Find what is in the model's folder and belongs to no version of it."""
        for path in sorted((self.repository.root / self.name).iterdir()):
            is_version = _is_number(path.name) and path.is_dir()
            is_known = path.name in _BESIDE_VERSIONS or _LABELS.fullmatch(path.name)
            if not is_version and not is_known:
                self.wrong.append(f"{path.name} in {self.name}'s folder is no part of the model")

    def _registration(self, digest: str, certificate: Certificate) -> None:
        """Compare with MLflow's tags, where a registry is asked and knows the version.

        Where it knows of no certificate, as of versions that earlier releases exported, it still
        knows the decision.
        """
        name, known = _registered(self.repository, self.name, self.version)
        uri = f"models:/{name}/{self.version}"
        if known and digest not in known:
            self.wrong.append(f"its certificate is none of those that MLflow holds for {uri}")
        if known or self.repository.registered_decision is None:
            return
        decision = self.repository.registered_decision(name, self.version)
        if decision not in {"", certificate.decision_sha256}:
            self.wrong.append(f"its decision is not the one that MLflow holds for {uri}")


_digests: dict[Path, tuple[tuple[int, ...], str]] = {}
"""By path, what a file was when it was hashed, and its digest: `status` looks every second."""

_SETTLED_NS = 2_000_000_000
"""A file that changed so recently could change again within the clock's grain, unseen."""


def _digest_of_now(path: Path) -> str:
    """Return a file's digest; it is read again only where the system says that it changed.

    The time of change (ctime) is the system's own: no program sets it, as it can the time of
    modification.
    """
    state = _state(path)
    known = _digests.get(path)
    if known is not None and known[0] == state:
        return known[1]
    digest = file_digest(path)
    is_settled = time.time_ns() - state[-1] > _SETTLED_NS
    if is_settled and _state(path) == state:
        _digests[path] = state, digest
    return digest


def _state(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return (
        *(stat.S_IFMT(found.st_mode), found.st_dev, found.st_ino, found.st_size),
        *(found.st_mtime_ns, found.st_ctime_ns),
    )


def _is_number(text: str) -> bool:
    """Return whether Triton takes a folder of this name for a version."""
    return text.isascii() and text.isdecimal() and not text.startswith("0")
