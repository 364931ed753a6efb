"""What a GPU asks of the loop, as far as a CPU can tell: no waits, full precision."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode

from thresher.errors import TrainingError
from thresher_training import OptimizationConfig
from thresher_training.loop import predict_logits
from thresher_training.loop.average import Average
from thresher_training.loop.faults import explained
from thresher_training.loop.steps import _has_unused

DECAY = 0.9


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2).to(torch.float32))


def steps(net, num):
    """Yield the network after each of some steps of plain gradient descent."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for seed in range(num):
        torch.manual_seed(seed)
        optimizer.zero_grad()
        net(torch.randn(16, 4)).pow(2).mean().backward()
        optimizer.step()
        yield net


def of_torch(net):
    """torch's own average, with the same rule for its decay."""

    def rule(means, values, num_averaged):
        kept = min(DECAY, (1 + int(num_averaged)) / (10 + int(num_averaged)))
        for mean, value in zip(means, values, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - kept)
            else:
                mean.copy_(value)

    return AveragedModel(net, multi_avg_fn=rule, use_buffers=True)


def test_the_average_is_torch_s_own_and_its_state_is_read_by_either():
    net = network()
    ours, theirs = Average(net, DECAY), of_torch(net)
    for at, now in enumerate(steps(net, 12)):
        ours.update(now)
        theirs.update_parameters(now)
        if at == 5:  # a run that is interrupted here goes on from either's state
            state = copy.deepcopy(theirs.state_dict())
            assert state.keys() == ours.state_dict().keys()
            ours = Average(net, DECAY)
            ours.load_state_dict(state)
    for name, value in theirs.module.state_dict().items():
        torch.testing.assert_close(ours.module.state_dict()[name], value, rtol=0, atol=0)
    assert not torch.equal(ours.module[0].weight, net[0].weight)


class Recorded(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.called = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.called.append(str(function))
        return function(*args, **(kwargs or {}))


def test_an_update_reads_nothing_back_and_takes_one_call_for_all_weights():
    net = network()
    average = Average(net, DECAY)
    average.update(net)
    with Recorded() as ours:
        average.update(net)
    assert not [call for call in ours.called if "_local_scalar_dense" in call]
    assert [call for call in ours.called if "lerp" in call] == ["aten._foreach_lerp_.Scalar"]
    theirs = of_torch(net)
    theirs.update_parameters(net)
    with Recorded() as recorded:  # what it would be otherwise
        theirs.update_parameters(net)
    assert [call for call in recorded.called if "_local_scalar_dense" in call]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(4, 8, batch_first=True, dropout=0.5, num_layers=2)
        self.output = nn.Linear(8, 2)
        self.unused = nn.Linear(8, 2)
        self.seen = []

    def forward(self, features):
        self.seen.append((self.training, torch.backends.cudnn.enabled))
        hidden, _ = self.cell(features)
        hidden.register_hook(lambda _: self.seen.append(torch.backends.cudnn.enabled))
        return self.output(hidden[:, -1])


def test_the_trial_for_unused_weights_keeps_cudnn_out_of_a_recurrent_backward():
    """cuDNN's LSTM raises "cudnn RNN backward can only be called in training mode"."""
    net = Recurrent()
    example = {"features": torch.randn(3, 5, 4)}
    before = torch.random.get_rng_state()
    assert _has_unused(net, example, torch.device("cpu"))
    assert net.seen == [(False, False), False]
    assert torch.backends.cudnn.enabled
    assert torch.equal(before, torch.random.get_rng_state()), "dropout was drawn"
    net.unused = None
    assert not _has_unused(net, example, torch.device("cpu"))


FLAGS = (
    torch.backends.cuda.matmul,
    *(torch.backends.cudnn.conv, torch.backends.cudnn.rnn),
    *(torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv, torch.backends.mkldnn.rnn),
)


def state():
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:  # the newer flags alone were set
        older = None
    return [flag.fp32_precision for flag in FLAGS], older


class Watching(nn.Module):
    def __init__(self):
        super().__init__()
        self.output = nn.Linear(4, 2)
        self.seen = []

    def forward(self, features):
        # the old flag raises where it disagrees with the new ones, and torch's own code reads it
        self.seen.append((set(state()[0]), torch.backends.cuda.matmul.allow_tf32))
        return self.output(features)


@pytest.mark.parametrize(
    "code",
    [
        "pass",
        "torch.set_float32_matmul_precision('high')",
        "torch.set_float32_matmul_precision('medium')",
        "torch.backends.cuda.matmul.allow_tf32 = True",
        "torch.backends.cudnn.allow_tf32 = False",
        "torch.backends.fp32_precision = 'tf32'",
        "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
        "torch.backends.cudnn.rnn.fp32_precision = 'ieee'",
        "torch.backends.cudnn.fp32_precision = 'tf32'",
    ],
)
def test_evaluation_is_in_full_precision_whichever_flags_were_set(code):
    clean, generic = state(), torch.backends.fp32_precision
    cudnn_all = torch.backends.cudnn.fp32_precision
    older = torch.backends.cudnn.allow_tf32
    try:
        exec(code, {"torch": torch})
        before = state()
        net = Watching()
        predict_logits(net, {"features": np.zeros((3, 4), np.float32)})
        assert net.seen == [({"ieee"}, False)]
        assert state() == before
    finally:
        torch.backends.fp32_precision = generic
        torch.backends.cudnn.fp32_precision = cudnn_all
        torch.set_float32_matmul_precision(clean[1])
        torch.backends.cudnn.allow_tf32 = older
        for flag, precision in zip(FLAGS, clean[0], strict=True):
            flag.fp32_precision = precision
    assert torch.backends.cudnn.allow_tf32 == older, "it can be read: later exports in this process"


GONE = "another process of this run is gone"
ERRORS = {
    """NCCL error in: ProcessGroupNCCL.cpp:3690, remote process exited or there was a network error
ncclRemoteError: A call failed possibly due to a network error or a remote process exiting.
Last error:
""": GONE,
    "[rank0]: Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)": GONE,
    "[gloo/transport/tcp/pair.cc:534] Connection closed by peer": GONE,
    """NCCL error in: NCCLUtils.cpp:77, invalid usage (run with NCCL_DEBUG=WARN for details)
ncclInvalidUsage: This usually reflects invalid usage of NCCL library.
Last error:
Duplicate GPU detected : rank 0 and rank 1 both on CUDA device
""": "NCCL, which joins the GPUs, fails: Duplicate GPU detected",
}


@pytest.mark.parametrize("text", ERRORS)
def test_an_error_of_nccl_says_what_happened(text):
    with pytest.raises(TrainingError, match="epoch 1: ") as error:
        with explained(nn.Linear(1, 1), OptimizationConfig(), lambda: "epoch 1"):
            raise RuntimeError(text)
    assert ERRORS[text] in str(error.value)
