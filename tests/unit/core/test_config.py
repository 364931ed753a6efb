from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from thresher.config import load_toml, to_toml
from thresher.errors import ConfigError, NotFoundError


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    name: Literal["bce", "focal"] = "bce"
    gamma: float = 2.0

    def __post_init__(self) -> None:
        if self.gamma < 0:
            raise ConfigError(f"gamma is {self.gamma}, expected 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    name: str
    epochs: int = 1
    shuffle: bool = True
    sizes: tuple[int, ...] = ()
    alias: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    loss: Loss = field(default_factory=Loss)


def load(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return load_toml(path, Recipe, overrides)


def test_missing_keys_take_their_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, 'name = "x"') == Recipe(name="x")


def test_sections_lists_and_whole_numbers_for_floats(tmp_path: Path) -> None:
    text = 'name = "x"\nsizes = [1, 2]\n[loss]\nname = "focal"\ngamma = 1\n[options]\na.b = "c"'
    expected = Recipe(
        name="x", sizes=(1, 2), loss=Loss(name="focal", gamma=1.0), options={"a": {"b": "c"}}
    )
    assert load(tmp_path, text) == expected


def test_override_wins_and_makes_sections(tmp_path: Path) -> None:
    text = 'name = "x"\n[loss]\ngamma = 1.0'
    loaded = load(tmp_path, text, "loss.gamma=3", "loss.name=focal", "options.deep.key=[1, 2]")
    assert loaded.loss == Loss(name="focal", gamma=3.0)
    assert loaded.options == {"deep": {"key": [1, 2]}}


def test_written_toml_reads_back_equal(tmp_path: Path) -> None:
    config = Recipe(
        name='a "b" \\ \n é',
        sizes=(3,),
        options={"x": [1.5, "y"], "with space": True, "t": {"u": 1e-9}},
    )
    assert load(tmp_path, to_toml(config)) == config


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        ('name = "x"\nepoch = 3', [], 'unknown key "epoch"; did you mean "epochs"'),
        ('name = "x"\n[loss]\ngama = 3', [], 'unknown key "loss.gama"; did you mean "loss.gamma"'),
        ("epochs = 3", [], 'the key "name" is missing'),
        ('name = "x"\nepochs = "3"', [], "epochs is '3', expected a int"),
        ('name = "x"\nepochs = true', [], "epochs is True, expected a int"),
        ('name = "x"\nsizes = 3', [], "sizes is 3, expected a list"),
        ('name = "x"\nsizes = [1, "b"]', [], r"sizes\[1\] is 'b'"),
        ('name = "x"\nloss = 3', [], r"expected a section \[loss\]"),
        ('name = "x"\n[loss]\nname = "bec"', [], 'did you mean "bce"'),
        ('name = "x"\n[loss]\ngamma = -1', [], r"\[loss\] gamma is -1.0"),
        ("name = ", [], "not valid TOML"),
        ('name = "x"', ["loss.gamma"], "expected section.key=value"),
        ('name = "x"', ["name.first=1"], "is a value in"),
    ],
)
def test_wrong_configuration_names_file_and_key(
    tmp_path: Path, text: str, overrides: list[str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        load(tmp_path, text, *overrides)
    assert "recipe.toml" in str(error.value) or "--set" in str(error.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"nothing\.toml"):
        load_toml(tmp_path / "nothing.toml", Recipe)
