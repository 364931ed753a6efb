"""Progress goes to stderr: lines where there is no terminal, a bar where there is one."""

import pytest

from thresher_training.loop import EpochMetrics, StepProgress
from thresher_training.progress import show_progress


def epoch(number, seconds=60.0):
    return EpochMetrics(
        epoch=number,
        train_loss=0.5,
        validation_loss=0.25,
        validation={"macro_f1": 0.75, "mean_average_precision": 0.875},
        learning_rate=0.1,
        gradient_norm=1.0,
        rows_per_s=12345.6,
        data_wait_fraction=0.01,
        seconds=seconds,
    )


def show_two_epochs():
    with show_progress("digits [small]", 2) as show:
        for number in (1, 2):
            for step in (1, 2):
                show.step(
                    StepProgress(epoch=number, step=step, num_steps=2, loss=0.5, rows_per_s=9e3)
                )
            show.epoch(epoch(number))


def test_without_a_terminal_there_is_one_line_per_epoch(capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    show_two_epochs()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        (
            "digits [small]: epoch 1/2  loss 0.5000, validation 0.2500, mAP 0.8750, "
            "macro-F1 at 0.5 0.7500, 12,346 rows/s, 60 s left"
        ),
        (
            "digits [small]: epoch 2/2  loss 0.5000, validation 0.2500, mAP 0.8750, "
            "macro-F1 at 0.5 0.7500, 12,346 rows/s"
        ),
    ]


def test_time_left_follows_the_epochs_so_far(capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    with show_progress("digits", 101) as show:
        show.epoch(epoch(1, seconds=60))
        show.epoch(epoch(2, seconds=120))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("1.7 h left")
    assert lines[1].endswith("2.5 h left")


@pytest.mark.parametrize("columns", ["60", "120"])
def test_on_a_terminal_there_is_a_bar_under_the_lines(capsys, monkeypatch, columns):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", columns)
    show_two_epochs()
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch 2/2" in err
    assert "2/2" in err
    assert "━" in err
