"""What the doctor sees in a network: each fault planted in one that would be trained, and found."""

import copy
import types

import pytest
import torch
from torch import nn
from torch.nn import functional

from support.patients import LABELS, Wrapped, network, patient
from thresher_training.correlation import with_correlation
from thresher_training.doctor import examine
from thresher_training.recipe import CorrelationConfig


def found(given, *, fits=True, **changes):
    """The one finding."""
    diagnosis = examine(patient(network=given, **changes), fits=fits)
    assert len(diagnosis.findings) == 1, diagnosis.findings
    return diagnosis.findings[0]


class Formula(nn.Module):
    """A sigmoid that no graph names."""

    def forward(self, values):
        return 1 / (1 + (-values).exp())


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, values):
        return self.function(values)


@pytest.mark.parametrize(
    ("after", "code"),
    [
        (nn.Sigmoid(), "double-sigmoid"),
        (Function(torch.sigmoid), "double-sigmoid"),
        (Function(lambda x: torch.sigmoid(x).float().reshape(len(x), -1)), "double-sigmoid"),
        (Formula(), "double-sigmoid"),
        (nn.Hardsigmoid(), "double-sigmoid"),
        (nn.LogSigmoid(), "double-sigmoid"),
        (nn.Softmax(dim=1), "softmax-in-network"),
        (Function(lambda x: functional.log_softmax(x, dim=1)), "softmax-in-network"),
        (Function(lambda x: x.exp() / x.exp().sum(1, keepdim=True)), "softmax-in-network"),
        (nn.Tanh(), "bounded-outputs"),
        (nn.ReLU(), "bounded-outputs"),
        (Function(torch.square), "bounded-outputs"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else value,
)
def test_a_bound_at_the_end_of_the_network_is_an_error(after, code):
    finding = found(Wrapped(after))
    assert (finding.level, finding.code) == ("error", code)
    assert "outputs of 128 train rows lie between" in finding.evidence


def test_a_sigmoid_under_a_correlation_head_is_found():
    refined = with_correlation(Wrapped(nn.Sigmoid()), CorrelationConfig(), len(LABELS))
    assert found(refined).code == "double-sigmoid"


@pytest.mark.parametrize("shift", [-8.0, 0.4, 6.0])
def test_logits_that_happen_to_lie_on_one_side_are_no_bound(shift):
    given = network(num_labels=len(LABELS))
    with torch.no_grad():
        given.layers[-1].bias += shift
        given.layers[-1].weight *= 1e-2
    codes = examine(patient(network=given), fits=True).codes
    assert not {"double-sigmoid", "softmax-in-network", "bounded-outputs"} & set(codes)


def test_sigmoids_inside_are_nobodys_fault():
    gated = nn.Sequential(nn.Linear(5, 5), nn.Sigmoid(), nn.Linear(5, 5))
    assert examine(patient(network=Wrapped(gated)), fits=True).codes == ()


def test_dropout_that_evaluation_does_not_switch_off_is_an_error():
    finding = found(Wrapped(Function(lambda x: functional.dropout(x, 0.5, training=True))))
    assert (finding.level, finding.code) == ("error", "random-at-evaluation")


def test_a_train_method_that_forgets_its_children_is_an_error():
    class Forgetful(Wrapped):
        def train(self, mode=True):
            self.training = mode
            return self

    finding = found(Forgetful(nn.Dropout(0.5)))
    assert finding.code == "random-at-evaluation"
    assert '"after"' in finding.evidence


class BatchStatistics(nn.Module):
    """Batch-norm that is in train mode whatever the network is."""

    def __init__(self, *, tracked):
        super().__init__()
        self.tracked = tracked
        self.register_buffer("mean", torch.zeros(5))
        self.register_buffer("variance", torch.ones(5))

    def forward(self, values):
        running = (self.mean, self.variance) if self.tracked else (None, None)
        return functional.batch_norm(values, *running, training=True)


@pytest.mark.parametrize("tracked", [True, False])
def test_batch_norm_left_in_train_mode_is_an_error(tracked):
    finding = found(Wrapped(BatchStatistics(tracked=tracked)))
    assert (finding.level, finding.code) == ("error", "batch-norm-at-evaluation")
    assert ("after.mean" in finding.evidence) == tracked


def test_ordinary_batch_norm_and_dropout_are_no_fault():
    usual = nn.Sequential(nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 5))
    assert examine(patient(network=Wrapped(usual)), fits=True).codes == ()


def named(**attributes):
    given = network(num_labels=len(LABELS))
    for name, value in attributes.items():
        setattr(given, name, value)
    return given


def test_a_network_with_the_labels_in_another_order_is_an_error():
    other = dict(enumerate(sorted(LABELS, reverse=True)))
    for given in (
        named(config=types.SimpleNamespace(id2label=other)),
        named(labels=list(other.values())),
        named(id2label={str(k): name for k, name in other.items()}),
    ):
        finding = found(given)
        assert (finding.level, finding.code) == ("error", "label-order")
        assert 'output 0 is "zero", the data\'s column 0 is "even"' in finding.evidence


def test_a_network_with_other_labels_is_told():
    finding = found(named(labels=("cat", "dog")))
    assert (finding.level, finding.code) == ("warning", "label-names")
    assert '"cat", "dog"' in finding.evidence


@pytest.mark.parametrize(
    "names", [LABELS, [f"LABEL_{k}" for k in range(5)], (), torch.zeros(5), {"a": 1}, [1, 2]]
)
def test_the_same_or_no_names_are_no_fault(names):
    assert examine(patient(network=named(labels=names)), fits=True).codes == ()


def test_a_wrong_number_of_logits_is_an_error():
    finding = found(network(num_labels=4), fits=False)
    assert (finding.level, finding.code) == ("error", "label-count")
    assert "[3, 4] for 3 rows" in finding.evidence


def test_a_network_that_fails_is_an_error():
    finding = found(Wrapped(nn.Linear(4, 5)), fits=False)
    assert (finding.level, finding.code) == ("error", "network-refused")
    assert "RuntimeError" in finding.evidence


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LazyLinear(5)

    def forward(self, features):
        return self.layer(features)


@pytest.mark.parametrize("deep", [False, True])
def test_an_examination_changes_nothing(deep):
    faulty = Wrapped(nn.Sequential(nn.BatchNorm1d(5), BatchStatistics(tracked=True), nn.Dropout()))
    for mode in (True, False):
        given = patient(network=faulty.train(mode))
        before, random = copy.deepcopy(faulty.state_dict()), torch.get_rng_state()
        examine(given, deep=deep)
        assert torch.equal(torch.get_rng_state(), random)
        assert all(torch.equal(value, before[k]) for k, value in faulty.state_dict().items())
        assert [m.training for m in faulty.modules()] == [mode for _ in faulty.modules()]
        assert all(parameter.grad is None for parameter in faulty.parameters())


def test_lazy_layers_stay_lazy():
    lazy = Lazy()
    assert examine(patient(network=lazy)).codes == ()
    assert isinstance(lazy.layer.weight, nn.UninitializedParameter)


def test_a_network_that_cannot_be_copied_is_a_note_and_stops_nothing():
    class Stubborn(Wrapped):
        def __deepcopy__(self, memo):
            raise RuntimeError("no copies")

    finding = found(Stubborn(nn.Identity()))
    assert (finding.level, finding.code) == ("note", "check-failed")
    assert "no copies" in finding.evidence


def test_the_examination_is_the_same_each_time():
    given = patient(network=Wrapped(nn.Sigmoid()))
    first, second = (examine(given, deep=True, fits=True) for _ in range(2))
    assert first.findings == second.findings
    assert first.range_test == second.range_test
