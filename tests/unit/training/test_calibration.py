"""Calibration: what scikit-learn and known scales say, and where there is nothing to fit."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from thresher.decision import Decision, sigmoid
from thresher.errors import ConfigError, DataError
from thresher_training.decisions.calibration import (
    MIN_SCALE,
    calibration_error,
    calibration_warnings,
    fit_calibration,
)

f32 = np.float32


def drawn(scale, bias, num_rows, seed=0):
    """Logits, and targets that come true as often as sigmoid(scale * logit + bias) says."""
    rng = np.random.default_rng(seed)
    logits = (1.5 * rng.normal(size=(num_rows, len(scale)))).astype(f32)
    targets = rng.random(logits.shape) < sigmoid((logits * scale + bias).astype(f32))
    return logits, targets.astype(f32)


def test_known_scales_and_biases_are_recovered():
    scale, bias = np.array([0.5, 1.0, 2.0, 0.7]), np.array([0.0, -1.0, 1.0, -3.0])
    logits, targets = drawn(scale, bias, 40_000)
    found_scale, found_bias = fit_calibration(logits, targets, "platt")
    assert found_scale.dtype == found_bias.dtype == f32
    np.testing.assert_allclose(found_scale, scale, atol=0.08)
    np.testing.assert_allclose(found_bias, bias, atol=0.12)


def test_without_a_prior_platt_is_scikit_learns_logistic_regression():
    logits, targets = drawn([0.5, 2.0, 1.0], [0.0, -2.0, 1.0], 500)
    scale, bias = fit_calibration(logits, targets, "platt", prior=1e-9)
    for at in range(3):
        model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
        model.fit(logits[:, [at]], targets[:, at])
        assert scale[at] == pytest.approx(model.coef_[0, 0], rel=2e-3)
        assert bias[at] == pytest.approx(model.intercept_[0], rel=2e-3, abs=2e-3)


def test_one_temperature_is_the_one_with_the_least_log_loss():
    logits, targets = drawn([0.4, 0.4, 0.4], [0.0, 0.0, 0.0], 5_000)
    scale, bias = fit_calibration(logits, targets, "temperature", prior=1e-9)
    assert (bias == 0).all()
    assert (scale == scale[0]).all()
    assert scale[0] == pytest.approx(0.4, abs=0.03)
    best = min(
        np.linspace(0.2, 0.6, 81),
        key=lambda s: log_loss(targets.ravel(), sigmoid((logits * f32(s)).ravel())),
    )
    assert scale[0] == pytest.approx(best, abs=0.005)


def test_calibration_makes_overconfident_probabilities_honest():
    logits, targets = drawn([0.3] * 4, [-1.0] * 4, 4_000)
    test_logits, test_targets = drawn([0.3] * 4, [-1.0] * 4, 4_000, seed=1)
    errors = {}
    for method in ("none", "temperature", "platt"):
        scale, bias = fit_calibration(logits, targets, method)
        d = Decision(labels="abcd", thresholds=[0.5] * 4, scale=scale, bias=bias)
        errors[method] = calibration_error(d.probabilities(test_logits), test_targets)
    assert errors["platt"].ece < 0.02 < errors["temperature"].ece < errors["none"].ece
    assert errors["platt"].brier < errors["temperature"].brier < errors["none"].brier


@pytest.mark.parametrize("method", ["none", "platt"])
@pytest.mark.parametrize("target", [0.0, 1.0, np.nan])
def test_labels_with_nothing_to_fit_stay_as_they_are(method, target):
    logits, targets = drawn([1.0, 2.0], [0.0, 0.0], 50)
    targets[:, 0] = target
    scale, bias = fit_calibration(logits, targets, method)
    assert (scale[0], bias[0]) == (1, 0)


def test_a_label_whose_logits_fall_is_held_and_said():
    logits, targets = drawn([1.0, 1.0, 1.0], [0.0, 0.0, -1.0], 400)
    targets[:, 1] = 0
    scale, bias = fit_calibration(
        np.stack([logits[:, 0], logits[:, 1], -logits[:, 2]], axis=1), targets, "platt"
    )
    assert scale[2] == f32(MIN_SCALE)
    rate = targets[:, 2].mean()
    assert sigmoid(f32(bias[2])) == pytest.approx(rate, abs=0.01)  # close to no information
    said = calibration_warnings(["cat", "dog", "fox"], targets, scale, "platt")
    assert said == (
        '"dog" is not calibrated: no known positives',
        '"fox": higher logits do not mean more positives; its scale is held at 0.01',
    )
    assert calibration_warnings(["cat", "dog", "fox"], targets, scale, "none") == ()


@pytest.mark.parametrize("positives", [1, 2, 3])
def test_rare_labels_do_not_run_away(positives):
    logits = np.full((2_000, 1), -9, dtype=f32)
    logits[:positives] = -8.5  # perfectly separated: maximum likelihood has no end
    targets = (np.arange(2_000) < positives).astype(f32)[:, None]
    scale, bias = fit_calibration(logits, targets, "platt")
    assert 0.5 < scale[0] < 2
    assert abs(bias[0]) < 5


def test_unknown_targets_are_left_out():
    logits, targets = drawn([0.5, 2.0], [0.0, -1.0], 600)
    known = np.random.default_rng(1).random(600) < 0.5
    holey = np.where(known[:, None], targets, f32(np.nan))
    odd = np.where(known[:, None], logits, f32(np.nan))
    for method in ("platt", "temperature"):
        expected = fit_calibration(logits[known], targets[known], method)
        np.testing.assert_allclose(fit_calibration(odd, holey, method), expected, atol=1e-6)
    p = sigmoid(logits)
    error, expected = calibration_error(p, holey), calibration_error(p[known], targets[known])
    assert error.ece == pytest.approx(expected.ece)
    np.testing.assert_allclose(error.brier_L, expected.brier_L, rtol=1e-6)


finite = st.floats(-200, 200, width=32) | st.sampled_from([f32(np.inf), f32(-np.inf)])


@settings(max_examples=60, deadline=None)
@given(arrays(f32, (6, 3), elements=finite), arrays(f32, (6, 3), elements=st.sampled_from([0, 1])))
def test_every_fit_is_an_increasing_line(logits, targets):
    for method in ("platt", "temperature"):
        scale, bias = fit_calibration(logits, targets, method)
        assert np.isfinite(scale).all()
        assert np.isfinite(bias).all()
        assert (scale >= f32(MIN_SCALE)).all()


def test_a_thousand_labels_are_fitted_at_once():
    rng = np.random.default_rng(0)
    scale, bias = rng.uniform(0.3, 3, 1_000), rng.uniform(-4, 1, 1_000)
    logits, targets = drawn(scale, bias, 10_000)
    found, _ = fit_calibration(logits, targets, "platt")
    assert np.abs(found - scale).mean() < 0.05


def test_errors_agree_with_scikit_learn():
    logits, targets = drawn([0.5, 1.0], [0.0, -1.0], 1_000)
    p = sigmoid(logits)
    error = calibration_error(p, targets, num_bins=10)
    assert error.brier == pytest.approx(brier_score_loss(targets.ravel(), p.ravel()), rel=1e-6)
    for at in range(2):
        brier = brier_score_loss(targets[:, at], p[:, at])
        assert error.brier_L[at] == pytest.approx(brier, rel=1e-6)
        rate, mean = calibration_curve(targets[:, at], p[:, at], n_bins=10)
        bins = error.reliability[at]
        filled = bins.count_B > 0
        np.testing.assert_allclose(bins.observed_rate_B[filled], rate, rtol=1e-6)
        np.testing.assert_allclose(bins.mean_probability_B[filled], mean, rtol=1e-6)
        expected = np.sum(bins.count_B[filled] / 1_000 * np.abs(rate - mean))
        assert error.ece_L[at] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(
        error.pooled.count_B, error.reliability[0].count_B + error.reliability[1].count_B
    )


def test_empty_bins_and_unknown_labels_are_nan_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        error = calibration_error(f32([[1.0, 0.5]]), f32([[1.0, np.nan]]), num_bins=4)
    assert error.pooled.count_B.tolist() == [0, 0, 0, 1]
    assert np.isnan(error.pooled.mean_probability_B).tolist() == [True, True, True, False]
    assert (error.ece, error.ece_L[0]) == (0, 0)
    assert np.isnan(error.ece_L[1])
    assert np.isnan(calibration_error(f32([[0.5]]), f32([[np.nan]])).ece)


def test_what_cannot_be_used_is_refused():
    zero, one = np.zeros((2, 1), f32), f32([[0], [1]])
    with pytest.raises(ConfigError, match='"isotonic", expected one of "none", "platt"'):
        fit_calibration(zero, one, "isotonic")
    with pytest.raises(ConfigError, match="prior is 0"):
        fit_calibration(zero, one, "platt", prior=0)
    with pytest.raises(DataError, match="expected the same"):
        fit_calibration(zero, one[:1], "platt")
    with pytest.raises(DataError, match="NaN"):
        fit_calibration(f32([[np.nan], [0]]), one, "platt")
    with pytest.raises(DataError, match=r"in \[0, 1\]"):
        calibration_error(f32([[1.5], [0]]), one)
