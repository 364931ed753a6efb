"""What a user reads while a Hugging Face model goes from its folder to Triton's repository."""

import subprocess
import sys
from pathlib import Path

import pytest

transformers = pytest.importorskip("transformers", reason="needs: pip install -e '.[text]'")

LABELS = ("wet", "windy", "bright")

DATA = """
import numpy as np
from thresher_training import DataSet, Split

def load():
    def split(seed):
        rng = np.random.default_rng(seed)
        ids = rng.integers(1, 40, size=(60, 9))
        mask = (np.arange(9) < rng.integers(2, 10, size=(60, 1))).astype(np.int64)
        return Split(
            inputs={"input_ids": ids * mask, "attention_mask": mask},
            targets_NL=(ids[:, :3] > 20).astype(np.float32),
        )
    return DataSet(
        labels=("wet", "windy", "bright"),
        splits={name: split(at) for at, name in enumerate(("train", "validation", "test"))},
        source="drawn at random",
        trim_by="attention_mask",
    )
"""

RECIPE = """
name = "handed"
[data]
source = "texts:load"
[network]
factory = "thresher_training.huggingface:sequence_classifier"
options = { folder = "model" }
[optimization]
epochs = 0
"""

EXPECTED = (
    "Successfully registered model 'handed'.",  # MLflow's own
    "Created version '1' of model 'handed'.",
    "Next: ",
    "Converting ",
    "Parity: ",
    "Publishing ",
)


def thresher(*arguments: str) -> tuple[str, list[str]]:
    """Run a command as a user does; return stdout, and the lines of stderr that none expects."""
    done = subprocess.run(
        [sys.executable, "-m", "thresher", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if not line.startswith(EXPECTED)]


@pytest.mark.slow
def test_neither_loading_nor_converters_chatter(store: Path) -> None:
    transformers.utils.logging.disable_progress_bar()
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=24,
        id2label=dict(enumerate(LABELS)),
        problem_type="multi_label_classification",
    )
    transformers.BertForSequenceClassification(config).save_pretrained(store / "model")
    Path("texts.py").write_text(DATA)
    Path("handed.toml").write_text(RECIPE)
    trained, chatter = thresher("train", "handed.toml")
    assert "Registered models:/handed/1 as handed@candidate" in trained
    assert chatter == []
    exported, chatter = thresher("export", "models:/handed@candidate")
    assert "Published models:/handed/1" in exported
    assert chatter == []
