"""Other people's text on a terminal: shown as it is, never obeyed."""

from __future__ import annotations

import io
import json
import logging
import re
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from thresher.cli import main
from thresher.cli import output as printing
from thresher.terminal import console, json_text, printable

ROOT = Path(__file__).parents[3]
HOSTILE = "[/red] [bold]x[/bold] :smile: \x1b[31m\x9b2J\u202e\u2066\ud800 \\[link=a]b"
SHOWN = r"[/red] [bold]x[/bold] :smile: \x1b[31m\x9b2J\u202e\u2066\ud800 \[link=a]b"


def controls(text: str) -> list[str]:
    """Return what a terminal would obey: categories of Unicode, not the product's own list."""
    return [
        char
        for char in text
        if (unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} and char not in "\n\t")
        or unicodedata.bidirectional(char)
        in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    ]


@given(st.text(st.characters()))
def test_printable_text_has_no_control_left_and_ordinary_text_stays(text: str) -> None:
    shown = printable(text)
    assert not controls(shown)
    assert printable(shown) == shown
    if text.isprintable():
        assert shown == text


@given(st.recursive(st.text(), lambda each: st.lists(each) | st.dictionaries(st.text(), each)))
def test_json_is_free_of_controls_and_says_the_same(content: Any) -> None:
    for indent in (None, 2):
        text = json_text(content, indent=indent)
        assert not controls(text)
        assert json.loads(text) == content


def test_a_table_shows_markup_and_controls_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    printing.print_table(HOSTILE, [HOSTILE, "#n"], [[HOSTILE, ("no", "red")]])
    shown = capsys.readouterr().out
    assert not controls(shown)
    assert shown.count(SHOWN) == 3
    assert "no" in shown
    widths = {len(line) for line in shown.splitlines()[1:]}
    assert len(widths) == 1  # an escape is measured as what is shown


@pytest.mark.parametrize("name", ["say", "tell"])
def test_a_line_shows_controls_as_text(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    getattr(printing, name)(HOSTILE)
    out, err = capsys.readouterr()
    assert (out if name == "tell" else err) == SHOWN + "\n"


def test_steps_show_markup_and_controls_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    from thresher.cli.rollout_output import shown_steps

    for steps in (printing.steps, shown_steps):
        with steps() as show:
            show(HOSTILE)
        err = capsys.readouterr().err
        assert SHOWN in err
        assert not controls(err)


def test_a_spinner_shows_markup_and_controls_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    from thresher.cli import rollout_output

    for module in (printing, rollout_output):
        made = console(stderr=True)
        made.file, made._force_terminal, made.width = io.StringIO(), True, 200
        monkeypatch.setattr(module, "console", lambda made=made, **_: made)
        steps = module.steps if module is printing else module.shown_steps
        with steps() as show:
            show(HOSTILE)
            made.print(HOSTILE)
        written = made.file.getvalue()
        assert SHOWN in written
        own = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", written).replace("\r", "")  # Rich's own
        assert not controls(own)


def test_texts_that_rich_draws_itself_are_shown_as_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from rich.text import Text

    console().print(Text(HOSTILE))
    shown = capsys.readouterr().out
    assert not controls(shown)
    assert r"[/red] [bold]x[/bold] :smile: \x1b[31m" in shown


def test_a_bar_shows_a_models_name_as_text() -> None:
    from rich.progress import Progress, TextColumn

    from thresher_training.progress import _Bar, show_progress

    made = console(stderr=True)
    made.file, made._force_terminal, made.width = io.StringIO(), True, 200
    with Progress(TextColumn("{task.description}", markup=False), console=made) as progress:
        _Bar(HOSTILE, 3, progress)
    assert SHOWN in made.file.getvalue()
    with show_progress(HOSTILE, 0):
        pass


def test_status_shows_names_and_labels_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    from thresher.cli.status_table import status_table

    version = SimpleNamespace(
        model=HOSTILE,
        version=1,
        state="READY",
        serves=True,
        aliases=[HOSTILE],
        proof="ok",
        requests=1,
        failures=0,
        mean_ms=1.0,
        queue_ms=0.1,
        batch_size=1.0,
        has_own_requests=True,
        rows=2,
        positive_rates={HOSTILE: 0.5},
        reason=HOSTILE,
    )
    found: Any = SimpleNamespace(
        server=HOSTILE,
        url=HOSTILE,
        versions=[version],
        published={},
        previous={},
        rolling_out=[HOSTILE],
        warnings=[HOSTILE],
        supervisor=HOSTILE,
        left_out={HOSTILE: HOSTILE},
        notes=[HOSTILE],
    )
    for every_label in (False, True):
        made = console(min_width=300)
        made.print(status_table(found, width=300, every_label=every_label))
        shown = capsys.readouterr().out
        assert not controls(shown)
        assert shown.count(SHOWN) >= 9


def test_the_doctor_shows_findings_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    from thresher.cli.doctor import _print

    finding = SimpleNamespace(level="error", code="x", what=HOSTILE, evidence=HOSTILE, fix=HOSTILE)
    diagnosis: Any = SimpleNamespace(findings=[finding], name=HOSTILE, summary=lambda: "1 error")
    _print(diagnosis)
    shown = capsys.readouterr().out
    assert not controls(shown)
    assert shown.count(SHOWN) == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "no\x1b[31m\u202e[/red].toml"],
        ["repository", "ls", "no\x1b[31m\u202e[/red]"],
        ["export", "no\x1b[31m\u202e[/red]/a/b"],
        ["no\x1b[31m\u202e[/red]"],
        ["--no\x1b[31m\u202e[/red]"],
        ["score", "digits/1", "--no\x1b[31m\u202e[/red]"],
    ],
)
def test_an_error_shows_what_was_given_as_text(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, arguments, color=True)
    assert done.exit_code in {1, 2}
    assert r"no\x1b[31m\u202e[/red]" in done.stderr
    assert not controls(done.output)


def test_what_a_stage_logs_is_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    printing.log_printably()
    assert logging.lastResort is not None
    record = logging.LogRecord("thresher", logging.WARNING, "", 0, "%s", (HOSTILE,), None)
    assert logging.lastResort.format(record) == SHOWN


def test_commands_print_through_one_place() -> None:
    """Rich markup, `click.echo` and consoles of one's own would let text through."""
    pattern = re.compile(r'click\.echo\(|\bConsole\(|"\[/?(bold|red|green|dim)|\.replace\("\["')
    places = {"core/thresher/terminal.py", "core/thresher/cli/output.py"}
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for stage in ("core", "training", "export", "serving")
        for path in (ROOT / stage).rglob("*.py")
        if str(path.relative_to(ROOT)) not in places
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not [line for line in found if "printable(" not in line]
