"""What a model repository holds, whether it is what was proven, and what of it nobody needs.

Reads certificates and configurations; loads no torch, ONNX or MLflow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from thresher.certificate import CERTIFICATE_FILE, Certificate
from thresher.errors import NotFoundError, ParityError, ThresherError
from thresher.proof import is_foreign, loaded_versions
from thresher.repository import ModelRepository

__all__ = ["Leftover", "PublishedVersion", "collect", "find_leftovers", "list_versions"]

Proof = Literal["proven", "claimed", "wrong", "none", "foreign"]
"""``proven``: the bytes are those of the certificate; ``claimed``: there is a certificate, bytes
were not read; ``wrong``: bytes, decision or certificate do not fit; ``none``: there is no
certificate; ``foreign``: the model bears no mark of Thresher, so something else published it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedVersion:
    """One version that a configuration names."""

    model: str
    version: int
    is_serving: bool
    """Whether the version policy names it."""
    num_bytes: int
    """Of all its files; weights that versions share count for each."""
    proof: Proof
    problem: str = ""
    """What is wrong, in words; empty where nothing is."""
    precision: str | None = None
    created: str | None = None
    """When parity was proven, UTC."""

    @property
    def is_sound(self) -> bool:
        """Whether it may be served: nothing that was read speaks against it."""
        return self.proof in {"proven", "claimed", "foreign"}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def list_versions(
    repository: ModelRepository,
    *,
    names: Sequence[str] | None = None,
    read_bytes: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[PublishedVersion]:
    """Yield every version that is published, by model and ascending number.

    A configuration that cannot be read is a version 0 that is wrong: the rest is listed all the
    same.

    Args:
        repository: What is listed.
        names: Only these models.
        read_bytes: Compare every file with its certificate; else only certificates are read.
        progress: Called with each version before its bytes are read.

    Raises:
        NotFoundError: If one of ``names`` is not there.
    """
    for name in repository.names() if names is None else names:
        try:
            foreign = is_foreign(repository, name)
            served = set(loaded_versions(repository, name))
            versions = {*repository.versions(name), *served}
        except NotFoundError:
            raise
        except ThresherError as error:
            yield PublishedVersion(
                model=name,
                version=0,
                is_serving=False,
                num_bytes=0,
                proof="wrong",
                problem=str(error),
            )
            continue
        if not versions and not foreign:
            versions = {0}  # its files say nothing of a version any more
        for version in sorted(versions):
            if read_bytes:
                progress(f"{name}/{version}")
            yield _judged(
                repository, name, version, version in served, foreign, read_bytes=read_bytes
            )


def _judged(
    repository: ModelRepository,
    name: str,
    version: int,
    is_serving: bool,
    foreign: bool,
    *,
    read_bytes: bool,
) -> PublishedVersion:
    folder = repository.model_file(name, version).parent
    proof: Proof = "claimed"
    certificate, problem = None, ""
    if not version:
        proof, problem = "wrong", f"{folder.parent}: config.pbtxt names no version"
    elif not folder.is_dir():
        proof, problem = "wrong", f"{folder}: no such folder, though config.pbtxt names the version"
    elif foreign:
        proof = "foreign"
    else:
        try:
            certificate = Certificate.load(folder)
            if read_bytes:
                repository.check_proven(name, version)
                proof = "proven"
        except ParityError as error:
            proof = "wrong" if (folder / CERTIFICATE_FILE).is_file() else "none"
            problem = str(error)
        except ThresherError as error:
            proof, problem = "wrong", str(error)
    return PublishedVersion(
        model=name,
        version=version,
        is_serving=is_serving,
        num_bytes=_num_bytes(folder),
        proof=proof,
        problem=problem,
        precision=certificate.precision if certificate else None,
        created=certificate.created if certificate else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """Something that nobody needs."""

    kind: Literal["staging", "unlisted", "old"]
    """``staging``: a publisher died; ``unlisted``: it died before config.pbtxt named the version;
    ``old``: a version that does not serve and is not among the newest."""
    path: str
    num_bytes: int
    model: str = ""
    version: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def find_leftovers(repository: ModelRepository, *, keep: int) -> list[Leftover]:
    """Return what can be removed: what dead publishers left, and old versions.

    A version that the version policy names is never among them, nor any version of a model whose
    policy names none, which Thresher did not publish.

    Args:
        repository: What is searched.
        keep: The newest versions of each model that stay, besides those that serve.
    """
    found = [
        Leftover(kind="staging", path=str(folder), num_bytes=_num_bytes(folder))
        for folder in repository.left_behind()
    ]
    for name in repository.names():
        served = set(repository.served_versions(name))
        if not served:
            continue
        idle = [version for version in repository.versions(name) if version not in served]
        old = idle[: max(0, len(idle) - keep)]
        for kind, versions in (("unlisted", repository.unlisted(name)), ("old", old)):
            for version in versions:
                folder = repository.model_file(name, version).parent
                found.append(
                    Leftover(
                        kind="unlisted" if kind == "unlisted" else "old",
                        path=str(folder),
                        num_bytes=_num_bytes(folder),
                        model=name,
                        version=version,
                    )
                )
    return found


def collect(repository: ModelRepository, leftovers: Sequence[Leftover]) -> int:
    """Remove leftovers; return the bytes set free (not those that another version shares).

    Each is judged once more under the lock of publishing: what has come to serve meanwhile stays.

    Raises:
        PublishError: If the disk refuses, or a version has come to serve.
    """
    freed = 0
    if any(leftover.kind == "staging" for leftover in leftovers):
        sizes = {leftover.path: leftover.num_bytes for leftover in leftovers}
        freed += sum(sizes.get(str(folder), 0) for folder in repository.clear_left_behind())
    for leftover in leftovers:
        if leftover.kind != "staging":
            freed += repository.unpublish(leftover.model, leftover.version)
    return freed


def _num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
