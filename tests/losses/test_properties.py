"""What all losses promise: three states, order, precision, extreme logits, images without pairs, clear errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from mldec.losses import BinaryCrossEntropy, DistributionBalancedLoss, LesaLoss, SdlLoss, TwoWayLoss
from mldec.registry import LOSSES as REGISTERED
from tests.losses.samples import COUNTS, LOSSES, Sample, distribution_balanced, sample

ADDITIVE = [name for name in LOSSES if name not in ("two_way", "lesa")]  # over images

every_loss = pytest.mark.parametrize("name", LOSSES)


def slopes(loss, batch: Sample) -> dict[str, torch.Tensor]:
    """Of the logits and of each detail that the loss reads."""
    parts = {"logits": batch.logits, **{key: batch.details[key] for key in loss.needs}}
    parts = {key: part.clone().requires_grad_() for key, part in parts.items()}
    value = loss(parts["logits"], batch.targets, details=parts)
    found = torch.autograd.grad(value, list(parts.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(parts, found, strict=True))


@every_loss
def test_an_unknown_label_changes_nothing_and_has_no_gradient(name):
    batch, loss = sample(), LOSSES[name]()
    unknown = batch.targets < 0
    assert (slopes(loss, batch)["logits"][unknown] == 0).all()
    moved = Sample(torch.where(unknown, batch.logits + 9, batch.logits), batch.targets, batch.details)
    assert moved.value(loss) == batch.value(loss)
    if name == "lesa":
        found = slopes(loss, batch)
        assert (found["mean_logits"][unknown] == 0).all()
        assert (found["attention_logits"].transpose(1, 2)[unknown] == 0).all()


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "distribution_balanced"])
def test_a_label_that_is_unknown_everywhere_may_as_well_not_be_there(name):
    """The distribution-balanced loss divides by all B·N entries, as binary cross-entropy does."""
    batch, loss = sample(), LOSSES[name]()
    batch.targets[:, 4] = -1
    kept = batch.labels(torch.tensor([0, 1, 2, 3, 5, 6]))
    torch.testing.assert_close(kept.value(loss), batch.value(loss), rtol=1e-12, atol=0)


@every_loss
def test_unknown_at_weight_one_is_absent(name):
    batch = sample()
    whole = Sample(batch.logits, batch.targets.clamp(min=0), batch.details)
    torch.testing.assert_close(batch.value(LOSSES[name](unknown_weight=1.0)), whole.value(LOSSES[name]()))


@every_loss
def test_minus_one_and_the_mask_say_the_same(name):
    batch = sample()
    known = batch.targets >= 0
    masked = Sample(batch.logits, torch.where(known, batch.targets.double(), float("nan")), batch.details)
    for weight in (0.0, 0.4):
        loss = LOSSES[name](unknown_weight=weight)
        assert masked.value(loss, known) == batch.value(loss)


@every_loss
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_order_of_labels_and_of_images_changes_nothing(name, reduction):
    batch, loss = sample(), LOSSES[name](reduction=reduction)
    labels, images = torch.tensor([3, 1, 6, 0, 5, 2, 4]), torch.tensor([4, 2, 0, 1, 3])
    torch.testing.assert_close(batch.images(images).value(loss), batch.value(loss), rtol=1e-12, atol=0)
    if name == "distribution_balanced":
        loss.label_counts.copy_(torch.tensor(COUNTS)[labels])
    expected = batch.value(LOSSES[name](reduction=reduction))
    torch.testing.assert_close(batch.labels(labels).value(loss), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ADDITIVE)
def test_micro_batches_add_up(name):
    batch = sample(6)
    parts = [batch.images(torch.arange(first, first + 2)) for first in (0, 2, 4)]
    for reduction, share in (("sum", 1), ("mean", 3)):
        loss = LOSSES[name](reduction=reduction)
        torch.testing.assert_close(sum(part.value(loss) for part in parts) / share, batch.value(loss))


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, dtype):
    half, loss = sample().to(dtype), LOSSES[name]()
    value = half.value(loss)
    assert value.dtype == torch.float32
    assert value == half.to(torch.float32).value(loss)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert half.to(torch.float32).value(loss) == value


@every_loss
@pytest.mark.parametrize("unknown_weight", [0.0, 0.3])
def test_extreme_logits_stay_finite(name, unknown_weight):
    batch = sample(6, dtype=torch.float32)
    extremes = torch.tensor([1e4, -1e4, 90.0, -90.0, 0.0, 17.5, -17.5])
    rows = torch.stack([extremes.roll(shift) for shift in range(6)])
    settings = [{}, {"focal_gamma": 0.5}] if name == "distribution_balanced" else [{}]
    for more in settings:
        loss = LOSSES[name](unknown_weight=unknown_weight, **more)
        wide = Sample(rows, batch.targets, {**batch.details, "mean_logits": -rows, "attention_logits": rows[:, None]})
        if name == "lesa":
            wide.details["attention_logits"] = torch.stack([rows, -rows, 0 * rows], dim=1)
        assert wide.value(loss).isfinite()
        assert all(slope.isfinite().all() for slope in slopes(loss, wide).values())


@every_loss
def test_gradients_are_the_derivative(name):
    batch = sample(4, scale=1.0)
    settings = {"focal_gamma": 1.5} if name == "distribution_balanced" else {}
    loss = LOSSES[name](unknown_weight=0.5, **settings)
    keys = loss.needs
    parts = [part.clone().requires_grad_() for part in (batch.logits, *(batch.details[key] for key in keys))]

    def value(logits, *details):
        return loss(logits, batch.targets, details=dict(zip(keys, details, strict=True)))

    if name in ("hinge_ranking", "lesa"):  # the count is a constant; without pairs whose cost begins here it is one
        assert ((1 + batch.logits[:, :, None] - batch.logits[:, None]).abs() > 1e-4).all()
    assert torch.autograd.gradcheck(value, parts)


@every_loss
@pytest.mark.parametrize("state", [-1, 0])
def test_a_batch_without_a_positive_has_a_finite_gradient(name, state):
    batch = sample()
    empty = Sample(batch.logits, torch.full_like(batch.targets, state), batch.details)
    for reduction in ("mean", "sum"):
        loss = LOSSES[name](reduction=reduction, **({"span_weight": 0.0} if name == "lesa" else {}))
        found = slopes(loss, empty)
        assert all(slope.isfinite().all() for slope in found.values())
        by_pairs = name in ("hinge_ranking", "ranknet", "two_way", "sdl")
        if state == -1 or by_pairs:
            assert empty.value(loss) == 0
            assert all((slope == 0).all() for slope in found.values())


@pytest.mark.parametrize("name", ["hinge_ranking", "ranknet", "two_way", "sdl", "zlpr", "lesa"])
def test_fractions_of_mixup_count_as_present_above_a_half(name):
    batch = sample()
    mixed = torch.where(batch.targets > 0, 0.6, torch.where(batch.targets == 0, 0.5, -1.0))
    assert Sample(batch.logits, mixed, batch.details).value(LOSSES[name]()) == batch.value(LOSSES[name]())


@every_loss
def test_nothing_is_left_attached_inside_no_grad(name):
    with torch.no_grad():
        assert not sample().value(LOSSES[name]()).requires_grad


@pytest.mark.parametrize(
    ("loss_class", "message"),
    [
        (SdlLoss, r"SdlLoss needs the details matrix, label_vectors of a head; missing: label_vectors"),
        (LesaLoss, r"missing: attention_logits, mean_logits, attention_scores"),
    ],
)
def test_missing_details_are_named(loss_class, message):
    batch = sample()
    with pytest.raises(ValueError, match=message):
        loss_class()(batch.logits, batch.targets, details={"matrix": batch.details["matrix"]})


def test_details_that_do_not_fit_are_refused():
    batch = sample()
    wide = torch.cat([batch.logits, batch.logits[:, :1]], dim=1)
    targets = torch.ones_like(wide)
    for loss in (SdlLoss(), LesaLoss()):
        with pytest.raises(ValueError, match=r"with logits \(5, 8\) they must be \(B,"):
            loss(wide, targets, details=batch.details)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TwoWayLoss(0), "positive_temperature=0: must be a number > 0"),
        (lambda: SdlLoss(1.5), "weight=1.5: must be a number from 0 to 1"),
        (lambda: LesaLoss(span_weight=-1), "span_weight=-1"),
        (lambda: distribution_balanced(neg_scale=0), "neg_scale=0: must be a number > 0"),
        (lambda: distribution_balanced(label_smoothing=1), "label_smoothing=1"),
        (lambda: DistributionBalancedLoss(torch.tensor([3, 5]), 4), r"shape \(2,\), num_images=4: must be \(N,\)"),
        (lambda: DistributionBalancedLoss(torch.tensor([0]), 1), "at least 2 images"),
        (lambda: distribution_balanced()(torch.zeros(1, 3), torch.zeros(1, 3)), "3 logits, but counts of 7 labels"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_counts_are_part_of_the_state():
    loss = distribution_balanced()
    other = DistributionBalancedLoss(torch.ones(len(COUNTS), dtype=torch.int64), 50)
    other.load_state_dict(loss.state_dict())
    assert sample().value(other) == sample().value(loss)


@pytest.mark.parametrize("name", [*LOSSES, "soft_margin"])
def test_config_files_build_the_defaults_of_the_classes(name):
    folder = Path(__file__).parents[2] / "configs/loss"
    settings = yaml.safe_load((folder / f"{name}.yaml").read_text())
    component = REGISTERED[settings["name"]]
    config = component.config_class(**settings)
    counts = {"label_counts": torch.tensor(COUNTS), "num_images": 100} if config.uses_label_counts else {}
    built = component.build(config, **counts)
    default = BinaryCrossEntropy() if name == "soft_margin" else LOSSES[name]()
    assert type(built) is type(default)
    assert built.extra_repr() == default.extra_repr()
    assert config.needs == built.needs
