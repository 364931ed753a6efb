"""Progress goes to stderr: lines where there is no terminal, a bar where there is one."""

import pytest

from thresher_training.loop import EpochMetrics
from thresher_training.progress import show_progress


def show_two_epochs():
    with show_progress("digits", 2) as show:
        for epoch in (1, 2):
            show(
                EpochMetrics(
                    epoch=epoch,
                    train_loss=0.5,
                    validation_loss=0.25,
                    validation_macro_f1=0.75,
                    validation_micro_f1=0.8,
                    learning_rate=0.1,
                )
            )


def test_without_a_terminal_there_is_one_line_per_epoch(capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    show_two_epochs()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == (
        "digits: epoch 1/2  loss 0.5000, validation 0.2500, macro-F1 at 0.5 0.7500"
    )
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize("columns", ["60", "120"])
def test_on_a_terminal_there_is_a_bar(capsys, monkeypatch, columns):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", columns)
    show_two_epochs()
    out, err = capsys.readouterr()
    assert out == ""
    assert "train digits" in err
