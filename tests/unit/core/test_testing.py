import numpy as np
import pytest

from thresher import Decision
from thresher.agreement import Outputs
from thresher.testing import assert_decides_alike

DECISION = Decision(labels=["cat", "dog"], thresholds=[0.5, 0.25])
LOGITS = np.random.default_rng(0).normal(scale=2, size=(40, 2)).astype(np.float32)


def test_engines_that_decide_alike_give_their_agreement() -> None:
    agreement = assert_decides_alike(LOGITS, LOGITS * np.float32(1 + 1e-6), DECISION)
    assert (agreement.num_rows, agreement.num_flips) == (40, 0)


def test_engines_that_do_not_fail_with_the_label() -> None:
    with pytest.raises(AssertionError, match=r'logits differ .* label "(cat|dog)"'):
        assert_decides_alike(LOGITS, LOGITS[:, ::-1].copy(), DECISION)


def test_a_coarser_precision_allows_more() -> None:
    near = LOGITS + np.float32(1e-3)
    with pytest.raises(AssertionError):
        assert_decides_alike(LOGITS, near, DECISION)
    assert_decides_alike(LOGITS, near, DECISION, precision="fp16")


def test_outputs_of_a_server_are_judged_by_their_own_probabilities() -> None:
    reference = Outputs.of_logits(LOGITS, DECISION)
    p = np.float32([[0.5, 0.25]])
    wrong = Outputs(probabilities_NL=p, labels_NL=np.array([[True, False]]))
    with pytest.raises(AssertionError, match="not \\(probability >= threshold\\)"):
        assert_decides_alike(wrong, wrong, DECISION)
    assert_decides_alike(reference, reference, DECISION)
