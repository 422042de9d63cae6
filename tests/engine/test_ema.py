"""The average of weights against a plain loop over tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from mldec.engine.ema import Ema, find_lag
from mldec.registry import EMAS


class Net(nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.norm = nn.BatchNorm1d(4)
        self.wide = nn.Linear(4, 3).to(torch.float64)
        self.queries = nn.Parameter(torch.randn(3, 2), requires_grad=False)
        self.register_buffer("vectors", torch.randn(3, 2))
        self.register_buffer("constant", torch.randn(5), persistent=False)

    def forward(self, x):
        return self.wide(self.norm(self.linear(x)).double())


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def wander(net, steps, each):
    """Train at a large rate and call `each` after every step."""
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.05)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(16, 6, generator=generator)).pow(2).mean().backward()
        optimizer.step()
        each()


def tensors(module):
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@pytest.mark.parametrize("warmup", [False, True])
def test_equals_the_plain_loop(net, warmup):
    ema = Ema(net, decay=0.9, warmup=warmup)
    expected = {name: tensor.detach().double().clone() for name, tensor in tensors(net).items()}
    count = 0

    def each():
        nonlocal count
        ema.update(net)
        decay = min(0.9, (1 + count) / (10 + count)) if warmup else 0.9
        count += 1
        for name, tensor in tensors(net).items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor.detach().double()

    wander(net, 40, each)
    assert ema.updates == 40
    for name, tensor in tensors(ema.module).items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-6, atol=1e-7)
    assert ema.module.norm.num_batches_tracked == 40


def test_what_does_not_change_never_drifts(net):
    start = {name: tensors(net)[name].clone() for name in ("queries", "vectors", "constant")}
    ema = Ema(net)
    wander(net, 500, lambda: ema.update(net))
    for name, tensor in start.items():
        assert torch.equal(tensors(ema.module)[name], tensor)


def test_frozen_parameters_and_counters_are_copied_and_not_averaged(net):
    ema = Ema(net, decay=0.99)
    with torch.no_grad():
        net.queries.add_(1)
        net.norm.num_batches_tracked.fill_(7)
    ema.update(net)
    assert torch.equal(ema.module.queries, net.queries)
    assert ema.module.norm.num_batches_tracked == 7


def test_the_copy_is_separate_quiet_and_in_evaluation_mode(net):
    net.train()
    ema = Ema(net)
    assert not any(module.training for module in ema.module.modules())
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
    assert net.training
    assert net.linear.weight.requires_grad
    ours, theirs = tensors(ema.module), tensors(net)
    assert all(ours[name].data_ptr() != theirs[name].data_ptr() for name in theirs)
    before = {name: tensor.clone() for name, tensor in theirs.items()}
    ema.update(net)
    assert all(torch.equal(theirs[name], before[name]) for name in theirs)


def test_batch_norm_statistics_converge_with_the_weights():
    """A classifier that has stopped learning: the average predicts what it predicts, and as well."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    inputs = 3 * torch.randn(256, 2) + 5
    labels = (inputs[:, 0] > inputs[:, 1]).long()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    ema = Ema(net, decay=0.95)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 300)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), labels).backward()
        optimizer.step()
        ema.update(net)
    raw = (net.eval()(inputs).argmax(1) == labels).float().mean()
    average = (ema.module(inputs).argmax(1) == labels).float().mean()
    assert raw > 0.97
    assert abs(average - raw) < 0.01
    torch.testing.assert_close(ema.module[1].running_var, net[1].running_var, rtol=0.05, atol=0.01)


def test_a_restored_average_continues_the_same_way(net):
    ema = Ema(net, decay=0.9, warmup=True)
    wander(net, 5, lambda: ema.update(net))
    state = ema.state_dict()
    other = Ema(Net(), decay=0.9, warmup=True)
    other.load_state_dict(state)
    other.module.constant.copy_(net.constant)  # not persistent, so not in any state dict
    assert other.updates == 5
    wander(net, 5, lambda: (ema.update(net), other.update(net)))
    for name, tensor in tensors(ema.module).items():
        assert torch.equal(tensor, tensors(other.module)[name])


def test_decay_out_of_range_is_refused(net):
    for decay in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"decay={decay}: must be at least 0 and below 1"):
            Ema(net, decay=decay)


def test_decay_zero_is_a_copy(net):
    ema = Ema(net, decay=0.0)
    wander(net, 3, lambda: ema.update(net))
    for name, tensor in tensors(net).items():
        assert torch.equal(tensors(ema.module)[name], tensor)


@pytest.mark.parametrize(("name", "kind"), [("exponential", Ema), ("none", type(None))])
def test_config_files_build(net, name, kind):
    settings = yaml.safe_load((Path(__file__).parents[2] / "configs/ema" / f"{name}.yaml").read_text())
    component = EMAS[settings["name"]]
    built = component.build(component.config_class(**settings), net)
    assert isinstance(built, kind)
    if built is not None:
        assert (built.decay, built.warmup) == (0.9997, True)


def test_an_average_that_cannot_leave_its_start_is_noticed():
    """Half of it are the first weights still: with 0.9997 that takes 2,310 steps to get over."""
    model = nn.Linear(2, 2)
    assert "after the 100 steps of this run 97%" in str(find_lag(Ema(model), 100))
    assert find_lag(Ema(model), 2_310) is not None
    assert find_lag(Ema(model), 2_311) is None
    assert find_lag(Ema(model, warmup=True), 100) is None
    assert find_lag(None, 100) is None
