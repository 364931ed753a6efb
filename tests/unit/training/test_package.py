"""The package: public names exist, and importing it loads nothing heavy."""

import subprocess
import sys

import thresher_training


def test_every_public_name_exists():
    for name in thresher_training.__all__:
        assert getattr(thresher_training, name) is not None
    assert dir(thresher_training) == sorted(thresher_training.__all__)


def test_importing_loads_no_torch_and_decisions_and_plots_need_none():
    code = (
        "import sys; heavy = {'torch', 'mlflow', 'matplotlib'}\n"
        "import thresher_training; assert not heavy & set(sys.modules)\n"
        "thresher_training.tune_decision; thresher_training.picture_sheet\n"
        "assert not {'torch', 'mlflow', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
