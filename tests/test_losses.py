"""Losses against golden numbers, plain float64 oracles and the promises about unknown labels."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from timm.data.mixup import mixup_target
from timm.loss import BinaryCrossEntropy as TimmBinaryCrossEntropy

from mldec.losses import (
    CACHED,
    AsymmetricLoss,
    BinaryCrossEntropy,
    BinaryCrossEntropyConfig,
    CrossEntropy,
    ThreeStateLoss,
)
from mldec.registry import LOSSES

GOLDEN_LOGITS = [-2.0, -0.5, 0.0, 0.5, 2.0, 4.0]
GOLDEN_TARGETS = [0, 1, 0, 1, 0, 1]
ALL_LOSSES = [AsymmetricLoss, BinaryCrossEntropy, CrossEntropy]


def batch(rows=6, classes=9, seed=0, unknown=False, dtype=torch.float32, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64)).to(dtype)
    targets = torch.randint(-1 if unknown else 0, 2, (rows, classes), generator=generator, dtype=torch.int8)
    return logits.requires_grad_(), targets


def gradient(loss, logits, *targets):
    (result,) = torch.autograd.grad(loss(logits, *targets), logits)
    return result


def asl_oracle(x, y, gamma_neg, gamma_pos, clip, detach):
    """The published formula of one batch, written out term by term."""
    p = 1 / (1 + torch.exp(-x))
    p_neg = (1 - p + clip).clamp(max=1)
    p_t = p * y + p_neg * (1 - y)
    weight = (1 - p_t) ** (gamma_pos * y + gamma_neg * (1 - y))
    weight = weight.detach() if detach else weight
    return -(weight * (y * p.clamp(min=1e-8).log() + (1 - y) * p_neg.clamp(min=1e-8).log())).sum()


@pytest.mark.parametrize(
    ("detach", "expected"),
    [
        (True, [2.587e-06, -0.6224593, 0.0186392, -0.3775406, 0.2956206, -0.0179862]),
        (False, [1.257e-05, -0.6224593, 0.0731171, -0.3775406, 0.7234898, -0.0179862]),
    ],
)
def test_asymmetric_loss_gives_the_published_numbers(detach, expected):
    logits = torch.tensor([GOLDEN_LOGITS], requires_grad=True)
    loss = AsymmetricLoss(detach_weight=detach)
    value = loss(logits, torch.tensor([GOLDEN_TARGETS]))
    assert value.item() == pytest.approx(2.3372352, abs=2e-7)
    (found,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(found, torch.tensor([expected]), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("gammas", [(4, 0), (0, 0), (2, 1), (0.5, 0.5), (7, 3)])
@pytest.mark.parametrize("clip", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("fractional", [False, True])
def test_asymmetric_loss_equals_the_oracle(detach, gammas, clip, fractional):
    logits, targets = batch(dtype=torch.float64)
    targets = targets.double()
    if fractional:
        targets = 0.7 * targets + 0.3 * targets.roll(1, 0)
    loss = AsymmetricLoss(*gammas, clip=clip, detach_weight=detach)
    expected = asl_oracle(logits, targets, *gammas, clip, detach)
    torch.testing.assert_close(loss(logits, targets), expected, rtol=1e-10, atol=1e-10)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    # Where the oracle's 0 ** 0.5 has an infinite slope it gives nan; the true limit, and ours, is 0.
    expected_gradient = expected_gradient.nan_to_num(0.0)
    torch.testing.assert_close(gradient(loss, logits, targets), expected_gradient, rtol=1e-9, atol=1e-9)


class PlainAsymmetricLoss(AsymmetricLoss):
    """Without the fast path, which `total` takes."""

    total = ThreeStateLoss.total


@pytest.mark.parametrize("gammas", [(4, 0), (0, 0), (2, 1), (0.5, 0.5), (7, 3)])
@pytest.mark.parametrize("clip", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("unknown_weight", [0.0, 0.3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_fast_path_of_whole_targets_equals_the_plain_chain(gammas, clip, unknown_weight, masked, reduction):
    """More labels than are handled at a time, logits up to where the probabilities reach their floor."""
    rows = 3 * CACHED // 2 // 64
    logits, targets = batch(rows, 64, unknown=True, dtype=torch.float64, scale=9.0)
    known = torch.rand(targets.shape, generator=torch.Generator().manual_seed(1)) < 0.9 if masked else None
    settings = {"clip": clip, "unknown_weight": unknown_weight, "reduction": reduction}
    loss, plain = AsymmetricLoss(*gammas, **settings), PlainAsymmetricLoss(*gammas, **settings)
    torch.testing.assert_close(loss(logits, targets, known), plain(logits, targets, known), rtol=1e-12, atol=0)
    # The plain chain has the slope of a sigmoid from 1 - y, which near y = 1 is off by the precision itself.
    torch.testing.assert_close(
        gradient(loss, logits, targets, known), gradient(plain, logits, targets, known), rtol=1e-10, atol=1e-15
    )
    in_float32 = logits.detach().float().requires_grad_()
    torch.testing.assert_close(
        gradient(loss, in_float32, targets, known), gradient(plain, in_float32, targets, known), rtol=1e-5, atol=3e-7
    )


def test_the_fast_path_scales_with_what_comes_after_it_and_may_be_run_back_twice():
    logits, targets = batch()
    value = AsymmetricLoss()(logits, targets)
    (once,) = torch.autograd.grad(3 * value, logits, retain_graph=True)
    (twice,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(once, 3 * twice)


def test_asymmetric_loss_without_focusing_and_shift_is_binary_cross_entropy():
    logits, targets = batch()
    torch.testing.assert_close(
        AsymmetricLoss(0, 0, clip=0)(logits, targets), BinaryCrossEntropy(reduction="sum")(logits, targets)
    )


def test_easy_negatives_below_the_clip_cost_nothing():
    logits = torch.tensor([[-3.5, -8.0]], requires_grad=True)  # p = 0.029 and less
    loss = AsymmetricLoss(clip=0.05)
    assert loss(logits, torch.zeros(1, 2)).item() == 0
    assert gradient(loss, logits, torch.zeros(1, 2)).tolist() == [[0, 0]]


@pytest.mark.parametrize("loss_class", ALL_LOSSES)
@pytest.mark.parametrize("settings", [{}, {"unknown_weight": 0.3}])
def test_huge_logits_stay_finite(loss_class, settings):
    logits = torch.tensor([[-1e4, 1e4, -90.0, 90.0, 17.5, -17.5]] * 2, requires_grad=True)
    targets = torch.tensor([[0, 1, 1, 0, -1, 0], [1, 0, 0, 1, 0, -1]])
    losses = [loss_class(**settings)]
    if loss_class is AsymmetricLoss:
        losses += [AsymmetricLoss(0.5, 0.5, clip, False, **settings) for clip in (0.0, 0.05)]
    for loss in losses:
        assert loss(logits, targets).isfinite()
        assert gradient(loss, logits, targets).isfinite().all()


@pytest.mark.parametrize("loss_class", ALL_LOSSES)
@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64])
def test_the_dtype_of_the_targets_changes_nothing(loss_class, dtype):
    logits, targets = batch(unknown=True)
    loss = loss_class(unknown_weight=0.25)
    value = loss(logits, targets.to(dtype))
    assert value.dtype == torch.float32
    assert value.ndim == 0
    assert value == loss(logits, targets)
    boolean = loss(logits, targets == 1)
    assert boolean == loss(logits, (targets == 1).to(dtype))


@pytest.mark.parametrize("loss_class", ALL_LOSSES)
def test_minus_one_and_the_mask_say_the_same(loss_class):
    logits, targets = batch(unknown=True)
    known = targets >= 0
    masked = torch.where(known, targets.float(), torch.tensor(float("nan")))
    for weight in (0.0, 0.4, 1.0):
        loss = loss_class(unknown_weight=weight)
        assert loss(logits, masked, known) == loss(logits, targets)
        assert loss(logits, targets, torch.ones_like(known)) == loss(logits, targets)


@pytest.mark.parametrize("loss_class", ALL_LOSSES)
def test_an_unknown_label_has_no_gradient_at_weight_zero(loss_class):
    logits, targets = batch(unknown=True)
    found = gradient(loss_class(), logits, targets)
    assert (found[targets < 0] == 0).all()
    assert (found[targets == 1] != 0).all()


@pytest.mark.parametrize("loss_class", ALL_LOSSES)
def test_unknown_at_weight_one_is_absent(loss_class):
    logits, targets = batch(unknown=True)
    torch.testing.assert_close(
        loss_class(unknown_weight=1.0)(logits, targets), loss_class()(logits, targets.clamp(min=0))
    )


@pytest.mark.parametrize("loss_class", [AsymmetricLoss, BinaryCrossEntropy])
def test_unknown_weight_is_linear_between_skipped_and_absent(loss_class):
    logits, targets = batch(unknown=True)
    skipped, absent = (loss_class(unknown_weight=weight)(logits, targets) for weight in (0.0, 1.0))
    torch.testing.assert_close(loss_class(unknown_weight=0.3)(logits, targets), 0.7 * skipped + 0.3 * absent)


@pytest.mark.parametrize("loss_class", ALL_LOSSES)
def test_half_precision_is_computed_in_float32(loss_class):
    logits, targets = batch()
    for dtype in (torch.float16, torch.bfloat16):
        rounded = logits.detach().to(dtype)
        value = loss_class()(rounded, targets)
        assert value.dtype == torch.float32
        assert value == loss_class()(rounded.float(), targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss_class()(logits, targets)
    assert inside.dtype == torch.float32
    assert inside == loss_class()(logits, targets)


@pytest.mark.parametrize("loss_class", ALL_LOSSES)
def test_gradients_stay_off_inside_no_grad(loss_class):
    logits, targets = batch()
    with torch.no_grad():
        value = loss_class()(logits, targets)
        assert not torch.is_grad_enabled()
    assert not value.requires_grad


@pytest.mark.parametrize("loss_class", ALL_LOSSES)
def test_gradients_are_the_derivative(loss_class):
    settings = {"detach_weight": False} if loss_class is AsymmetricLoss else {"label_smoothing": 0.1}
    logits, targets = batch(rows=3, classes=4, unknown=True, dtype=torch.float64, scale=1.0)
    loss = loss_class(unknown_weight=0.5, **settings)
    assert torch.autograd.gradcheck(lambda x: loss(x, targets), logits)


@pytest.mark.parametrize("loss_class", ALL_LOSSES)
def test_micro_batches_add_up(loss_class):
    logits, targets = batch(rows=6, unknown=True)
    parts = list(zip(logits.chunk(3), targets.chunk(3), strict=True))
    summed, mean = loss_class(reduction="sum"), loss_class(reduction="mean")
    torch.testing.assert_close(sum(summed(*part) for part in parts), summed(logits, targets))
    torch.testing.assert_close(sum(mean(*part) for part in parts) / 3, mean(logits, targets))


def test_binary_cross_entropy_equals_torch():
    logits, targets = batch()
    expected = F.binary_cross_entropy_with_logits(logits, targets.float())
    torch.testing.assert_close(BinaryCrossEntropy()(logits, targets), expected)
    smoothed = F.binary_cross_entropy_with_logits(logits, targets * 0.8 + 0.1)
    torch.testing.assert_close(BinaryCrossEntropy(label_smoothing=0.2)(logits, targets), smoothed)


def test_target_threshold_makes_fractions_whole():
    logits, _ = batch(rows=1, classes=4)
    fractions = torch.tensor([[0.1, 0.2, 0.21, 0.9]])
    whole = torch.tensor([[0, 0, 1, 1]])
    assert BinaryCrossEntropy(target_threshold=0.2)(logits, fractions) == BinaryCrossEntropy()(logits, whole)


def test_smoothing_of_single_label_targets_is_timms_own_for_class_numbers():
    logits, _ = batch(classes=7)
    classes = torch.arange(len(logits)) % 7
    expected = TimmBinaryCrossEntropy(smoothing=0.1)(logits, classes)
    ours = BinaryCrossEntropy(label_smoothing=0.1, label_smoothing_toward="uniform")
    torch.testing.assert_close(ours(logits, F.one_hot(classes, 7)), expected)


def test_smoothing_of_multi_label_targets_is_timms_own_for_dense_ones():
    logits, targets = batch()
    for smoothing in (0.0, 0.1, 0.3):
        expected = TimmBinaryCrossEntropy(smoothing=smoothing, smooth_dense=True)(logits, targets.float())
        torch.testing.assert_close(BinaryCrossEntropy(label_smoothing=smoothing)(logits, targets), expected)
    for threshold in (0.05, 0.2):  # it comes after smoothing
        settings = {"target_threshold": threshold}
        expected = TimmBinaryCrossEntropy(smoothing=0.1, smooth_dense=True, **settings)(logits, 0.24 * targets.float())
        ours = BinaryCrossEntropy(label_smoothing=0.1, **settings)
        torch.testing.assert_close(ours(logits, 0.24 * targets.float()), expected)


@pytest.mark.parametrize("lam", [0.1, 0.21, 0.23, 0.5])
def test_smoothing_mixup_and_threshold_are_those_of_timms_recipe(lam):
    """ImageNet A1: smoothing 0.1 before the threshold 0.2, so that a share of 0.21 no longer counts as present."""
    logits, _ = batch(rows=6, classes=100)
    classes = torch.arange(6) * 3
    recipe = mixup_target(classes, 100, lam, smoothing=0.1)
    expected = TimmBinaryCrossEntropy(smoothing=0.1, target_threshold=0.2)(logits, recipe)
    one_hot = F.one_hot(classes, 100).float()
    ours = BinaryCrossEntropy(label_smoothing=0.1, label_smoothing_toward="uniform", target_threshold=0.2)
    torch.testing.assert_close(ours(logits, lam * one_hot + (1 - lam) * one_hot.flip(0)), expected)


@pytest.mark.parametrize(("smoothing", "threshold"), [(0.5, 0.2), (0.1, 0.04), (0.4, 0.6)])
def test_smoothing_that_moves_whole_targets_over_the_threshold_is_refused(smoothing, threshold):
    settings = {"label_smoothing": smoothing, "target_threshold": threshold}
    for make in (BinaryCrossEntropy, partial(BinaryCrossEntropyConfig, name="bce")):
        with pytest.raises(ValueError, match=f"label_smoothing={smoothing}: with target_threshold={threshold} whole"):
            make(**settings)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_torch_on_whole_and_fractional_rows(smoothing):
    logits, _ = batch()
    classes = torch.tensor([0, 3, 8, 8, 2, 5])
    whole = F.one_hot(classes, 9)
    mixed = 0.3 * whole + 0.7 * whole.roll(1, 0)
    loss = CrossEntropy(label_smoothing=smoothing)
    torch.testing.assert_close(loss(logits, whole), F.cross_entropy(logits, classes, label_smoothing=smoothing))
    torch.testing.assert_close(loss(logits, mixed), F.cross_entropy(logits, mixed, label_smoothing=smoothing))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_ignores_rows_without_a_positive(smoothing):
    logits, _ = batch(rows=3, classes=4)
    targets = torch.tensor([[0, 1, 0, 0], [0, 0, -1, 0], [-1, -1, -1, -1]])
    loss = CrossEntropy(label_smoothing=smoothing, reduction="sum")
    assert loss(logits, targets) == loss(logits[:1], targets[:1])
    found = gradient(loss, logits, targets)
    assert (found[1:] == 0).all()
    assert (found[0] != 0).all()


def test_cross_entropy_leaves_unknown_classes_out_of_the_softmax():
    logits, _ = batch(rows=1, classes=4)
    targets = torch.tensor([[0, 1, -1, 0]])
    keep = [0, 1, 3]
    for smoothing in (0.0, 0.1):
        loss = CrossEntropy(label_smoothing=smoothing)
        torch.testing.assert_close(loss(logits, targets), loss(logits[:, keep], targets[:, keep]))


def test_a_batch_of_unknowns_costs_nothing():
    logits, _ = batch()
    for loss_class in ALL_LOSSES:
        for reduction in ("sum", "mean"):
            loss = loss_class(reduction=reduction)
            assert loss(logits, -torch.ones(6, 9)) == 0
            assert (gradient(loss, logits, -torch.ones(6, 9)) == 0).all()


@pytest.mark.parametrize("loss_class", ALL_LOSSES)
def test_wrong_shapes_are_refused_in_words(loss_class):
    loss, logits = loss_class(), torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"logits must be floats of shape \(B,N\)"):
        loss(torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match="logits must be floats"):
        loss(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"targets have shape \(2, 4\), logits \(2, 3\)"):
        loss(logits, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="single-label targets are rows"):
        loss(logits, torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="known must be bool"):
        loss(logits, torch.zeros(2, 3), torch.ones(2, 3))


@pytest.mark.parametrize(
    ("loss_class", "settings", "message"),
    [
        (AsymmetricLoss, {"gamma_neg": -1}, "gamma_neg=-1"),
        (AsymmetricLoss, {"clip": 1.5}, "clip=1.5: must be a number from 0 to 1"),
        (AsymmetricLoss, {"unknown_weight": -0.1}, "unknown_weight=-0.1"),
        (BinaryCrossEntropy, {"label_smoothing": 1.0}, "label_smoothing=1.0: must be a number ≥ 0 and < 1"),
        (BinaryCrossEntropy, {"target_threshold": -1}, "target_threshold=-1"),
        (
            BinaryCrossEntropy,
            {"label_smoothing_toward": "one"},
            "'one': no such label_smoothing_toward",
        ),
        (CrossEntropy, {"reduction": "none"}, "use sum or mean"),
    ],
)
def test_settings_out_of_range_are_refused(loss_class, settings, message):
    with pytest.raises(ValueError, match=message):
        loss_class(**settings)


@pytest.mark.parametrize(
    ("name", "loss_class"), [("asl", AsymmetricLoss), ("bce", BinaryCrossEntropy), ("ce", CrossEntropy)]
)
def test_config_files_build_the_defaults_of_the_classes(name, loss_class):
    settings = yaml.safe_load((Path(__file__).parents[1] / "configs/loss" / f"{name}.yaml").read_text())
    component = LOSSES[settings["name"]]
    config = component.config_class(**settings)
    built = component.build(config)
    assert type(built) is loss_class
    assert built.extra_repr() == loss_class().extra_repr()
    assert config.single_label == (name == "ce")
