"""Parameter groups, the published Adam, and how a point of the schedule reaches the optimizer."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from mldec.engine.optimizer import (
    AdamConfig,
    AdamWConfig,
    LambConfig,
    RMSPropConfig,
    SGDConfig,
    apply_schedule,
    parameter_groups,
)
from mldec.engine.schedule import OneCycle, OneCycleConfig, SchedulePoint
from mldec.registry import OPTIMIZERS

CONFIGS = {"adam": AdamConfig, "adamw": AdamWConfig, "sgd": SGDConfig, "lamb": LambConfig, "rmsprop": RMSPropConfig}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(16, 5)
        self.head.queries = nn.Parameter(torch.randn(5, 2), requires_grad=False)
        self.head.temperature = nn.Parameter(torch.tensor(1.0))

    def forward(self, images):
        return self.head(self.backbone(images)) * self.head.temperature


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def train(net, optimizer, steps=6, schedule=None):
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        if schedule:
            apply_schedule(optimizer, schedule(step))
        optimizer.zero_grad()
        net(torch.randn(8, 3, 4, 4, generator=generator)).pow(2).sum().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in net.parameters()]


def clone(net):
    twin = Net()
    twin.load_state_dict(net.state_dict())
    return twin


def build(name, net, lr=1e-2, **settings):
    config = CONFIGS[name](name=name, **settings)
    groups = parameter_groups(net, weight_decay=config.weight_decay, backbone_lr_scale=config.backbone_lr_scale)
    return OPTIMIZERS[name].build(config, groups=groups, lr=lr)


def published_groups(net, weight_decay):
    """No decay on 1-D parameters and biases, frozen parameters skipped, one rate for all."""
    trainable = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    plain = [p for name, p in trainable if p.ndim <= 1 or name.endswith(".bias")]
    decayed = [p for name, p in trainable if not (p.ndim <= 1 or name.endswith(".bias"))]
    return [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": weight_decay}]


def test_groups_hold_every_trainable_parameter_once(net):
    groups = parameter_groups(net, weight_decay=0.1, backbone_lr_scale=0.5)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    found = {group["name"]: [names[id(p)] for p in group["params"]] for group in groups}
    assert found == {
        "backbone_decay": ["backbone.0.weight"],
        "backbone_no_decay": ["backbone.1.weight", "backbone.1.bias"],
        "head_decay": ["head.weight"],
        "head_no_decay": ["head.bias", "head.temperature"],
    }
    assert [group["weight_decay"] for group in groups] == [0.1, 0, 0.1, 0]
    assert [group["lr_scale"] for group in groups] == [0.5, 0.5, 1, 1]


def test_a_bias_of_more_dimensions_does_not_decay(net):
    net.head.bias = nn.Parameter(torch.zeros(1, 5))
    groups = {group["name"]: group["params"] for group in parameter_groups(net, weight_decay=0.1)}
    assert any(parameter is net.head.bias for parameter in groups["head_no_decay"])


def test_empty_groups_are_left_out(net):
    net.backbone.requires_grad_(False)
    groups = parameter_groups(net, weight_decay=0.1)
    assert [group["name"] for group in groups] == ["head_decay", "head_no_decay"]
    with pytest.raises(ValueError, match="no trainable parameter"):
        parameter_groups(net.requires_grad_(False), weight_decay=0.1)


def test_adam_equals_the_published_optimizer(net):
    """Coupled L2, the published grouping, the one-cycle rate and momentum of torch."""
    twin, steps = clone(net), 12
    oracle = torch.optim.Adam(published_groups(twin, 1e-2), lr=1e-3)
    cycle = torch.optim.lr_scheduler.OneCycleLR(oracle, max_lr=1e-3, total_steps=steps + 1, pct_start=0.2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        oracle.zero_grad()
        twin(torch.randn(8, 3, 4, 4, generator=generator)).pow(2).sum().backward()
        oracle.step()
        cycle.step()
    schedule = OneCycle(OneCycleConfig(name="one_cycle", max_lr=1e-3, cycle_momentum=True), steps + 1, steps + 1)
    found = train(net, build("adam", net, weight_decay=1e-2), steps, schedule)
    for ours, theirs in zip(found, twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "settings", "oracle"),
    [
        ("adamw", {"weight_decay": 0.1}, lambda groups: torch.optim.AdamW(groups, lr=1e-2)),
        ("sgd", {"weight_decay": 0.1}, lambda groups: torch.optim.SGD(groups, lr=1e-2, momentum=0.9)),
        (
            "sgd",
            {"weight_decay": 0.1, "nesterov": True, "momentum": 0.8},
            lambda groups: torch.optim.SGD(groups, lr=1e-2, momentum=0.8, nesterov=True),
        ),
    ],
)
def test_the_others_equal_torch(net, name, settings, oracle):
    twin = clone(net)
    expected = train(twin, oracle(published_groups(twin, 0.1)))
    for ours, theirs in zip(train(net, build(name, net, **settings)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_rmsprop_is_that_of_tensorflow():
    """s = 0.9 s + 0.1 g², m = 0.5 m + lr g / sqrt(s + eps), w = w - m; s starts at 1, and each rate enters m."""
    weight = nn.Parameter(torch.tensor([2.0, -3.0]))
    config = RMSPropConfig(name="rmsprop", momentum=0.5, decay=0.9, eps=1.0)
    optimizer = OPTIMIZERS["rmsprop"].build(config, groups=[{"params": [weight], "weight_decay": 0.1}], lr=1.0)
    expected, square, moment = weight.detach().clone(), torch.ones(2), torch.zeros(2)
    for rate in (0.1, 0.1, 0.01, 1.0):
        apply_schedule(optimizer, SchedulePoint(rate))
        optimizer.zero_grad()
        weight.pow(2).sum().backward()
        gradient = 2 * expected + 0.1 * expected
        square = 0.9 * square + 0.1 * gradient**2
        moment = 0.5 * moment + rate * gradient / (square + 1.0).sqrt()
        expected = expected - moment
        optimizer.step()
        torch.testing.assert_close(weight.detach(), expected)


def test_lamb_learns(net):
    images = torch.randn(8, 3, 4, 4)
    before = net(images).pow(2).sum()
    train(net, build("lamb", net), steps=30)
    assert net(images).pow(2).sum() < before / 2


@pytest.mark.parametrize("name", CONFIGS)
def test_a_point_reaches_every_group(net, name):
    optimizer = build(name, net, backbone_lr_scale=0.1)
    apply_schedule(optimizer, SchedulePoint(0.5, 0.7))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.05, 0.5, 0.5])
    for group in optimizer.param_groups:
        assert (group["momentum"] if name in ("sgd", "rmsprop") else group["betas"][0]) == 0.7
    apply_schedule(optimizer, SchedulePoint(0.25))
    assert optimizer.param_groups[2]["lr"] == 0.25
    assert (optimizer.param_groups[2].get("momentum") or optimizer.param_groups[2]["betas"][0]) == 0.7


def test_momentum_for_an_optimizer_without_one_is_refused(net):
    with pytest.raises(ValueError, match=r"Adagrad has no momentum to cycle; use schedule.cycle_momentum=false"):
        apply_schedule(torch.optim.Adagrad(net.head.parameters()), SchedulePoint(0.1, 0.9))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_backbone_of_rate_zero_stands_still(net, name):
    start = [parameter.detach().clone() for parameter in net.backbone.parameters()]
    optimizer = build(name, net, backbone_lr_scale=0.0)
    train(net, optimizer, 3, schedule=lambda step: SchedulePoint(0.1))
    assert all(torch.equal(a, b) for a, b in zip(net.backbone.parameters(), start, strict=True))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_saved_optimizer_continues_as_if_it_had_not_stopped(net, name):
    schedule = OneCycle(OneCycleConfig(name="one_cycle", max_lr=1e-2, cycle_momentum=True), 10, 10)
    optimizer = build(name, net)
    train(net, optimizer, 5, schedule)
    twin = clone(net)
    resumed = build(name, twin)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    ahead = train(net, optimizer, 5, schedule)
    assert all(torch.equal(a, b) for a, b in zip(ahead, train(twin, resumed, 5, schedule), strict=True))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_resumed_run_may_change_the_memory_format(net, name):
    optimizer = build(name, net)
    train(net, optimizer, 5)
    twin = clone(net).to(memory_format=torch.channels_last)
    resumed = build(name, twin)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for ours, theirs in zip(train(twin, resumed, 5), train(net, optimizer, 5), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(ValueError, match=r"^nesterov=true: needs optimizer.momentum above 0"):
        SGDConfig(name="sgd", momentum=0.0, nesterov=True)


@pytest.mark.parametrize("name", CONFIGS)
def test_config_files_build(net, name):
    settings = yaml.safe_load((Path(__file__).parents[2] / "configs/optimizer" / f"{name}.yaml").read_text())
    assert OPTIMIZERS[settings["name"]].config_class is CONFIGS[name]
    assert build(settings.pop("name"), net, **settings)
