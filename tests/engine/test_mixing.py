"""mixup and cutmix against small oracles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mldec.engine.mixing import Box, Mixed, mix, mix_box, mix_whole, random_box


def batch(size=6, classes=5, height=8, width=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, height, width, generator=generator)
    targets = torch.randint(-1, 2, (size, classes), generator=generator, dtype=torch.int8)
    return images, targets


def plain(images, targets):
    return Mixed(images, targets.clamp(min=0).float(), targets >= 0)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


PARTNERS = torch.tensor([3, 0, 5, 1, 4, 2])


def expected_targets(targets, lam):
    """Fractions and knowledge, entry by entry."""
    fractions, known = torch.zeros(targets.shape), torch.zeros(targets.shape, dtype=torch.bool)
    for row, partner in enumerate(PARTNERS.tolist()):
        for column in range(targets.shape[1]):
            own, other = int(targets[row, column]), int(targets[partner, column])
            if own >= 0 and other >= 0:
                known[row, column] = True
                fractions[row, column] = lam * own + (1 - lam) * other
    return fractions, known


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.75])
def test_mixup_is_the_weighted_sum(lam):
    images, targets = batch()
    mixed = mix_whole(plain(images, targets), PARTNERS, lam)
    torch.testing.assert_close(mixed.images, lam * images + (1 - lam) * images[PARTNERS])
    fractions, known = expected_targets(targets, lam)
    torch.testing.assert_close(mixed.targets, fractions)
    assert torch.equal(mixed.known, known)


def test_cutmix_takes_the_box_from_the_partner_and_weighs_by_its_area():
    images, targets = batch()
    box = Box(2, 7, 0, 3)
    mixed = mix_box(plain(images, targets), PARTNERS, box)
    fractions, known = expected_targets(targets, 1 - 15 / 80)
    torch.testing.assert_close(mixed.targets, fractions)
    assert torch.equal(mixed.known, known)
    inside = torch.zeros(8, 10, dtype=torch.bool)
    inside[2:7, 0:3] = True
    assert torch.equal(mixed.images, torch.where(inside, images[PARTNERS], images))


def test_nothing_to_mix_is_the_identity():
    images, targets = batch()
    start = plain(images, targets)
    assert same(mix_whole(start, PARTNERS, 1.0), start)
    assert same(mix_box(start, PARTNERS, Box(4, 4, 0, 9)), start)
    generator = seeded(0)
    state = generator.get_state()
    unmixed = mix(images, targets, mixup=0, cutmix=0, generator=generator)
    assert torch.equal(unmixed.images, start.images)
    assert unmixed.targets is targets  # whole numbers, for which a loss may have a faster way
    assert torch.equal(unmixed.known, start.known)
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("alphas", [(0.2, 0.0), (0.0, 1.0), (0.5, 1.0)])
def test_the_generator_decides_everything(alphas):
    images, targets = batch()
    before = images.clone(), targets.clone()
    arguments = dict(zip(("mixup", "cutmix"), alphas, strict=True))
    results = [mix(images, targets, **arguments, generator=seeded(seed)) for seed in range(6)]
    np.random.seed(0)
    torch.manual_seed(0)
    again = [mix(images, targets, **arguments, generator=seeded(seed)) for seed in range(6)]
    assert all(same(a, b) for a, b in zip(results, again, strict=True))
    assert not all(same(results[0], other) for other in results[1:])
    assert torch.equal(images, before[0])
    assert torch.equal(targets, before[1])
    generator = seeded(0)
    first = mix(images, targets, **arguments, generator=generator)
    assert not same(first, mix(images, targets, **arguments, generator=generator))


def test_cutmix_fractions_are_the_area_that_is_left():
    """Images of ones among images of zeros: the mean of an image is its target."""
    for seed in range(50):
        images = torch.zeros(4, 3, 12, 17)
        images[:2] = 1
        targets = torch.tensor([[1], [1], [0], [0]], dtype=torch.int8)
        mixed = mix(images, targets, mixup=0, cutmix=1.0, generator=seeded(seed))
        torch.testing.assert_close(mixed.images.mean((1, 2, 3)), mixed.targets[:, 0])
        assert set(mixed.images.unique().tolist()) <= {0.0, 1.0}


def test_mixup_fractions_are_the_weights_of_the_images():
    for seed in range(20):
        images = torch.eye(5)[:, :, None, None].expand(5, 5, 4, 4)[:, :3]
        mixed = mix(images, torch.eye(5, dtype=torch.int8), mixup=1.0, cutmix=0, generator=seeded(seed))
        torch.testing.assert_close(mixed.images[:, :, 0, 0], mixed.targets[:, :3])
        torch.testing.assert_close(mixed.targets.sum(1), torch.ones(5))


def test_both_on_are_chosen_about_evenly():
    images = torch.zeros(8, 3, 8, 8)
    images[::2] = 1
    targets = torch.zeros(8, 1, dtype=torch.int8)
    blended = 0
    for seed in range(200):
        mixed = mix(images, targets, mixup=5.0, cutmix=5.0, generator=seeded(seed))
        blended += bool(((mixed.images > 0) & (mixed.images < 1)).any())  # cutmix never blends
    assert 70 < blended < 130


@pytest.mark.parametrize("lam", [0.0, 0.1, 0.5, 0.99, 1.0])
def test_boxes_stay_inside_and_have_their_size_where_nothing_is_cut_off(lam):
    rng = np.random.default_rng(0)
    boxes = [random_box(20, 30, lam=lam, rng=rng) for _ in range(300)]
    for top, bottom, left, right in boxes:
        assert 0 <= top <= bottom <= 20
        assert 0 <= left <= right <= 30
    side = (1 - lam) ** 0.5
    assert max(box.bottom - box.top for box in boxes) == round(20 * side)
    assert max(box.right - box.left for box in boxes) == round(30 * side)


def test_uint8_images_become_floats():
    images = torch.full((2, 3, 4, 4), 200, dtype=torch.uint8)
    mixed = mix(images, torch.ones(2, 1, dtype=torch.int8), mixup=1.0, cutmix=0, generator=seeded(0))
    assert mixed.images.dtype == torch.float32
    torch.testing.assert_close(mixed.images, torch.full((2, 3, 4, 4), 200.0))


def test_one_image_is_its_own_partner():
    images, targets = batch(size=1)
    mixed = mix(images, targets, mixup=1.0, cutmix=1.0, generator=seeded(0))
    torch.testing.assert_close(mixed.images, images)
    assert torch.equal(mixed.known, targets >= 0)


def test_bad_input_is_refused_in_words():
    images, targets = batch()
    with pytest.raises(ValueError, match="mixup=-1, cutmix=0: must be at least 0"):
        mix(images, targets, mixup=-1, cutmix=0, generator=seeded(0))
    with pytest.raises(ValueError, match=r"found \(6, 3, 8, 10\) and \(5, 5\)"):
        mix(images, targets[:5], mixup=1, cutmix=0, generator=seeded(0))
