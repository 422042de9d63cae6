"""Schedules against torch's own, and their corners."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import yaml
from timm.scheduler import CosineLRScheduler

from mldec.commands import compose
from mldec.config import build_config
from mldec.engine import build
from mldec.engine.schedule import (
    CosineConfig,
    MultiStepConfig,
    OneCycle,
    OneCycleConfig,
    Schedule,
    SchedulePoint,
    TimmCosineConfig,
)
from mldec.registry import SCHEDULES

NAMES = {
    OneCycleConfig: "one_cycle",
    CosineConfig: "cosine",
    TimmCosineConfig: "timm_cosine",
    MultiStepConfig: "multi_step",
}


def one_cycle(total_steps: int, max_lr: float, pct_start: float = 0.2, *, momentum: bool = False) -> Schedule:
    config = OneCycleConfig(name="one_cycle", max_lr=max_lr, pct_start=pct_start, cycle_momentum=momentum)
    return OneCycle(config, total_steps, steps_per_epoch=total_steps)


def cosine(total_steps: int, max_lr: float, **settings: float) -> Schedule:
    """With a step an epoch, so that `warmup_epochs` are steps."""
    config = CosineConfig(name="cosine", epochs=total_steps, max_lr=max_lr, **settings)  # type: ignore[arg-type]
    return SCHEDULES["cosine"].build(config, total_steps=total_steps, steps_per_epoch=1)


@pytest.mark.parametrize("total_steps", [2, 3, 7, 100, 1466])
@pytest.mark.parametrize("pct_start", [0.0, 0.2, 0.3, 1.0])
@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.Adam])
def test_one_cycle_equals_torch_at_every_step(total_steps, pct_start, optimizer_class):
    settings = {"momentum": 0.9} if optimizer_class is torch.optim.SGD else {}
    optimizer = optimizer_class([torch.nn.Parameter(torch.zeros(1))], lr=1.0, **settings)
    oracle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=3e-4, total_steps=total_steps, pct_start=pct_start, div_factor=25, final_div_factor=1e4
    )
    schedule = one_cycle(total_steps, 3e-4, pct_start, momentum=True)
    (group,) = optimizer.param_groups
    for step in range(total_steps):
        momentum = group["momentum"] if "momentum" in group else group["betas"][0]
        assert schedule(step) == pytest.approx((group["lr"], momentum), rel=1e-12, abs=1e-16)
        optimizer.step()
        if step + 1 < total_steps:
            oracle.step()


def test_one_cycle_of_the_published_recipe():
    schedule = one_cycle(58_640, 1e-4, momentum=True)  # paper §2.1: 40 epochs of 1,466 steps
    assert schedule(0) == pytest.approx((4e-6, 0.95))
    assert schedule(8 * 1466 - 1) == pytest.approx((1e-4, 0.85))  # the last step of epoch 8
    assert schedule(58_639) == pytest.approx((4e-10, 0.95), rel=1e-6)
    assert one_cycle(58_640, 1e-4)(0).momentum is None


@pytest.mark.parametrize(("total_steps", "pct_start"), [(1, 0.2), (1, 1.0), (5, 0.2), (2, 0.5)])
def test_one_cycle_of_few_steps_has_no_division_by_zero(total_steps, pct_start):
    schedule = one_cycle(total_steps, 1.0, pct_start)
    rates = [schedule(step).lr for step in range(total_steps)]
    assert all(0 < rate <= 1 for rate in rates)


def test_cosine_rises_straight_and_falls_by_half_a_cosine():
    schedule = cosine(21, 1.0, warmup_epochs=4, warmup_lr=0.2, min_lr=0.1)
    rates = [schedule(step).lr for step in range(21)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[4:] == pytest.approx([0.1 + 0.45 * (1 + math.cos(math.pi * i / 16)) for i in range(17)])
    assert all(schedule(step).momentum is None for step in range(21))


def test_cosine_equals_torch_without_warm_up():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    oracle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=29, eta_min=0.01)
    schedule = cosine(30, 0.5, warmup_epochs=0, min_lr=0.01)
    for step in range(30):
        assert schedule(step).lr == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        oracle.step()


@pytest.mark.parametrize("steps_per_epoch", [1, 3])
@pytest.mark.parametrize(
    ("epochs", "cooldown", "warmup", "warmup_lr", "min_lr"),
    [(310, 10, 5, 1e-4, 1e-6), (610, 10, 5, 1e-4, 1e-6), (7, 0, 0, 1e-5, 0.0), (9, 3, 5, 0.0, 1e-3)],
)
def test_timm_cosine_equals_that_of_timm_in_every_epoch(epochs, cooldown, warmup, warmup_lr, min_lr, steps_per_epoch):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=4e-3)
    oracle = CosineLRScheduler(
        optimizer, epochs - cooldown, lr_min=min_lr, warmup_t=warmup, warmup_lr_init=warmup_lr, t_in_epochs=True
    )
    config = TimmCosineConfig(
        name="timm_cosine",
        epochs=epochs,
        max_lr=4e-3,
        warmup_epochs=warmup,
        warmup_lr=warmup_lr,
        min_lr=min_lr,
        cooldown_epochs=cooldown,
    )
    total_steps = epochs * steps_per_epoch
    schedule = SCHEDULES["timm_cosine"].build(config, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    for epoch in range(epochs):
        oracle.step(epoch)  # what timm's training script has set when an epoch begins
        for step in range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch):
            assert schedule(step) == SchedulePoint(pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12, abs=1e-18))


def multi_step(steps_per_epoch: int, epochs: int, **settings) -> Schedule:
    config = MultiStepConfig(name="multi_step", epochs=epochs, **settings)
    return SCHEDULES["multi_step"].build(config, total_steps=epochs * steps_per_epoch, steps_per_epoch=steps_per_epoch)


@pytest.mark.parametrize(("milestones", "gamma"), [((3, 4, 7), 0.1), ((1,), 0.5), ((), 0.1), ((3, 30), 0.2)])
def test_multi_step_equals_torch_in_every_epoch(milestones, gamma):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    oracle = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma)
    schedule = multi_step(3, 9, max_lr=0.5, milestones=milestones, gamma=gamma)
    for epoch in range(9):
        for step in range(3 * epoch, 3 * epoch + 3):
            assert schedule(step) == SchedulePoint(pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12))
        optimizer.step()
        oracle.step()


def test_multi_step_warms_up_step_by_step():
    """CSRA's: from a rate of 0, and milestones that are counted from the first epoch of the run."""
    schedule = multi_step(5, 6, max_lr=1.0, milestones=(4,), warmup_epochs=2)
    rates = [schedule(step).lr for step in range(30)]
    assert rates == pytest.approx([i / 10 for i in range(10)] + [1.0] * 10 + [0.1] * 10)
    warm = multi_step(4, 3, max_lr=1.0, warmup_epochs=1, warmup_lr=0.2)
    assert [warm(step).lr for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


@pytest.mark.parametrize(
    ("experiment", "expected"),
    [
        ("table5/ml_gcn", {0: 0.1, 19: 0.1}),  # constant: the published step is at epoch 30, after the end
        ("table5/add_gcn", {0: 0.05, 30: 0.05, 31: 0.005, 40: 0.005, 41: 5e-4, 49: 5e-4}),  # in effect one epoch late
        ("table5/csra", {2: 0.1, 4: 0.1, 5: 0.01, 10: 1e-3, 29: 1e-6}),
        ("table11/csra", {2: 0.1, 3: 0.1, 4: 0.01, 8: 1e-3, 28: 1e-8}),
    ],
)
def test_the_steps_of_other_methods_are_those_of_their_authors(experiment, expected):
    """The head's rate; the backbone's is a tenth of it."""
    compose.load_components(())
    config = build_config(compose.compose([f"experiment={experiment}"]))
    assert config.optimizer.backbone_lr_scale == 0.1
    schedule = build.build_schedule(config, 10)
    for epoch, rate in expected.items():
        assert [schedule(10 * epoch + place).lr for place in range(10)] == pytest.approx([rate] * 10)


@pytest.mark.parametrize(
    ("experiment", "epochs", "expected"),
    [
        ("imagenet_a2", 310, {0: 1.0e-4, 6: 3.996e-3, 250: 2.69e-4, 299: 1.11e-6, 300: 1e-6, 309: 1e-6}),
        ("table13/sigmoid_ml_decoder", 310, {0: 1.0e-4, 6: 3.996e-3, 250: 2.69e-4, 299: 1.11e-6, 309: 1e-6}),
        ("figure6/resnet34_gap", 310, {0: 1.0e-4, 6: 3.996e-3, 250: 2.69e-4, 299: 1.11e-6, 309: 1e-6}),
        ("table13/a1", 610, {0: 1.0e-4, 300: 2.0005e-3, 599: 1.027e-6, 600: 1e-6, 609: 1e-6}),
    ],
)
def test_the_imagenet_recipes_are_those_of_the_authors(experiment, epochs, expected):
    """Warm-up from 1e-4, a floor of 1e-6, ten epochs of cool-down, one rate an epoch."""
    compose.load_components(())
    config = build_config(compose.compose([f"experiment={experiment}"]))
    assert config.schedule.epochs == epochs
    schedule = build.build_schedule(config, 625)
    for epoch, rate in expected.items():
        for step in (epoch * 625, epoch * 625 + 624):
            assert schedule(step).lr == pytest.approx(rate, rel=2e-3)
    with pytest.raises(ValueError, match="outside the schedule"):
        schedule(epochs * 625)


@pytest.mark.parametrize("config_class", NAMES)
def test_steps_outside_the_run_are_refused(config_class):
    name = NAMES[config_class]
    schedule = SCHEDULES[name].build(config_class(name=name), total_steps=10, steps_per_epoch=2)
    for step in (-1, 10):
        with pytest.raises(ValueError, match=rf"step {step} is outside the schedule; allowed are 0\.\.9"):
            schedule(step)


def test_a_schedule_has_no_memory():
    schedule = one_cycle(50, 1.0, momentum=True)
    forwards = [schedule(step) for step in range(50)]
    assert [schedule(step) for step in reversed(range(50))] == forwards[::-1]


def test_factories():
    config = OneCycleConfig(name="one_cycle", max_lr=0.1, pct_start=0.5)
    built = SCHEDULES["one_cycle"].build(config, total_steps=10, steps_per_epoch=5)
    assert (built(4).lr, built(0).lr, built(9).lr) == pytest.approx((0.1, 0.1 / 25, 0.1 / 25e4))
    config = OneCycleConfig(name="one_cycle", cycle_momentum=True)
    assert SCHEDULES["one_cycle"].build(config, total_steps=10, steps_per_epoch=5)(0).momentum == 0.95
    config = CosineConfig(name="cosine", max_lr=0.1, warmup_epochs=1.5, warmup_lr=0.0)
    built = SCHEDULES["cosine"].build(config, total_steps=100, steps_per_epoch=10)
    assert built(0) == SchedulePoint(0.0)
    assert built(15) == SchedulePoint(0.1)


@pytest.mark.parametrize(
    ("config_class", "settings", "message"),
    [
        (OneCycleConfig, {"accumulate": 3}, r"^accumulate=3: does not divide schedule.batch_size=56"),
        (CosineConfig, {"accumulate": 5}, r"^accumulate=5: does not divide"),
        (OneCycleConfig, {"momentum": (0.95, 0.85)}, r"^momentum=\[0.95, 0.85\].*use \[0.85, 0.95\]"),
        (CosineConfig, {"cycle_momentum": True}, "^cycle_momentum=true: cosine has no momentum cycle; use false"),
        (CosineConfig, {"epochs": 5}, "^warmup_epochs=5: leaves nothing of schedule.epochs=5"),
        (CosineConfig, {"min_lr": 1.0}, "^min_lr=1: exceeds schedule.max_lr=0.0001"),
        (CosineConfig, {"warmup_lr": 1.0}, "^warmup_lr=1: exceeds"),
        (TimmCosineConfig, {"cycle_momentum": True}, "^cycle_momentum=true: timm_cosine has no momentum cycle"),
        (
            TimmCosineConfig,
            {"epochs": 15, "cooldown_epochs": 10},
            "^warmup_epochs=5: with cooldown_epochs=10 leaves nothing of schedule.epochs=15",
        ),
        (TimmCosineConfig, {"min_lr": 1.0}, "^min_lr=1: exceeds schedule.max_lr=0.0001"),
        (TimmCosineConfig, {"accumulate": 3}, "^accumulate=3: does not divide"),
        (MultiStepConfig, {"cycle_momentum": True}, "^cycle_momentum=true: multi_step has no momentum cycle"),
        (MultiStepConfig, {"milestones": (5, 3)}, r"^milestones=\[5, 3\]: not in ascending order; use \[3, 5\]"),
        (MultiStepConfig, {"milestones": (3, 3)}, r"^milestones=\[3, 3\]: not in ascending order; use \[3\]"),
        (MultiStepConfig, {"milestones": (1,), "warmup_epochs": 2}, r"^milestones=\[1\]: .*within warmup_epochs=2;"),
        (MultiStepConfig, {"epochs": 2, "warmup_epochs": 2}, "^warmup_epochs=2: leaves nothing"),
        (MultiStepConfig, {"warmup_lr": 1.0, "warmup_epochs": 2}, "^warmup_lr=1: exceeds"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(config_class, settings, message):
    with pytest.raises(ValueError, match=message):
        config_class(name=NAMES[config_class], **settings)


@pytest.mark.parametrize("name", ["one_cycle", "cosine", "timm_cosine", "multi_step"])
def test_config_files_build(name):
    settings = yaml.safe_load((Path(__file__).parents[2] / "configs/schedule" / f"{name}.yaml").read_text())
    component = SCHEDULES[settings["name"]]
    schedule = component.build(component.config_class(**settings), total_steps=400, steps_per_epoch=10)
    # timm's warm-up takes the place of the cosine's first epochs, with the highest rates.
    tolerance = 0.05 if name == "timm_cosine" else 0
    assert max(schedule(step).lr for step in range(400)) == pytest.approx(1e-4, rel=tolerance, abs=0)
