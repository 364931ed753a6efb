"""How a model, or a version of one, is named: on the command line, in Python and in MLflow."""

from __future__ import annotations

import re
from dataclasses import dataclass

from thresher.errors import NotFoundError

__all__ = ["ModelName", "parse_model", "parse_version"]

_FORM = re.compile(
    r"(?:models:/)?(?P<name>[^/@:]+)(?:/(?P<version>[0-9]{1,18})|@(?P<alias>[^/@:]+))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelName:
    """What a text names: a model, and at most one of version and alias."""

    name: str
    """The registered model, which has the same name in the model repository."""

    version: int | None = None
    """The registered version, which has the same number in the model repository."""

    alias: str | None = None
    """MLflow's alias of a version, such as ``"candidate"``."""

    @property
    def uri(self) -> str:
        """The same as MLflow writes it, such as ``models:/digits/3``."""
        if self.alias is not None:
            return f"models:/{self.name}@{self.alias}"
        return f"models:/{self.name}" + ("" if self.version is None else f"/{self.version}")

    @property
    def is_model(self) -> bool:
        """Whether it names a model alone, without version or alias."""
        return self.version is None and self.alias is None


def parse_model(text: str) -> ModelName:
    """Return what NAME, NAME/VERSION, NAME@ALIAS, or one of these after ``models:/``, names.

    Raises:
        NotFoundError: If the text has another form.

    Example:
        >>> parse_model("digits/3").version, parse_model("models:/digits@candidate").alias
        (3, 'candidate')
    """
    match = _FORM.fullmatch(text)
    version = None if match is None or match["version"] is None else int(match["version"])
    if match is None or version == 0:
        raise NotFoundError(
            f'"{text}" names no model; expected NAME, NAME/VERSION or NAME@ALIAS, with or without '
            "models:/ before it, such as digits, digits/3 or models:/digits@candidate"
        )
    return ModelName(name=match["name"], version=version, alias=match["alias"])


def parse_version(text: str) -> ModelName:
    """Return what a text names, with a version or an alias.

    Raises:
        NotFoundError: If the text has another form, or names a model alone.
    """
    found = parse_model(text)
    if found.is_model:
        raise NotFoundError(
            f'"{text}" names no version; expected NAME@ALIAS or NAME/VERSION, such as '
            f"{found.name}@candidate or {found.name}/3"
        )
    return found
