import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mldec.data.augment import DigitsAugmentConfig, PaperAugment, build_digits_augment
from mldec.data.image import decode, resize
from mldec.data.index import ImageIndex
from mldec.data.loader import Batch, eval_loader, train_loader
from mldec.errors import DataError

AUGMENT = build_digits_augment(DigitsAugmentConfig(name="digits"), image_size=64)
PAPER = PaperAugment(32)


ORDER, AUGMENTATION, SUBSTITUTE = range(3)


def generator(purpose: int, *entropy: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(purpose,)))


def equal(ones: Iterable[Batch], others: Iterable[Batch]) -> bool:
    ones, others = list(ones), list(others)
    return len(ones) == len(others) and all(
        torch.equal(a, b) for x, y in zip(ones, others, strict=True) for a, b in zip(x[:3], y[:3], strict=True)
    )


def train(index: ImageIndex, **arguments):
    settings = {"batch_size": 12, "seed": 5, "workers": 0} | arguments
    return train_loader(index, settings.pop("augment", AUGMENT), **settings)


def test_batches_hold_what_the_index_says(digits_index: ImageIndex) -> None:
    loader = train(digits_index)
    batches = list(loader.batches(0))
    assert [len(batch.ids) for batch in batches] == [12, 12, 12, 4]  # the last is kept
    assert loader.steps_per_epoch == len(loader) == 4
    rows = torch.cat([batch.ids for batch in batches]).numpy()
    assert sorted(rows) == list(range(40))
    assert rows.tolist() == generator(ORDER, 5, 0).permutation(40).tolist()
    for batch in batches:
        assert batch.images.dtype == torch.uint8
        assert batch.images.shape[1:] == (3, 64, 64)
        assert batch.images.is_contiguous()
        np.testing.assert_array_equal(batch.targets.numpy(), digits_index.targets(batch.ids.numpy()))
        for image, row in zip(batch.images, batch.ids.tolist(), strict=True):
            expected = AUGMENT(decode(digits_index.path(row)), generator(AUGMENTATION, 5, 0, row, 0))
            np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_epochs_differ_in_order_and_in_augmentation(digits_index: ImageIndex) -> None:
    loader = train(digits_index)
    first, second = (
        {int(i): x for b in loader.batches(e) for i, x in zip(b.ids, b.images, strict=True)} for e in (0, 1)
    )
    assert list(first) != list(second)
    assert all(not torch.equal(first[row], second[row]) for row in first)
    assert equal(loader.batches(1), train(digits_index).batches(1))
    assert not equal(loader.batches(1), train(digits_index, seed=6).batches(1))


@pytest.mark.parametrize(("workers", "start_method"), [(1, "fork"), (2, "fork"), (1, "spawn"), (1, "forkserver")])
def test_batches_do_not_depend_on_workers(digits_index: ImageIndex, workers: int, start_method: str) -> None:
    alone = train(digits_index, augment=PAPER)
    many = train(digits_index, augment=PAPER, workers=workers, start_method=start_method)
    for epoch in (0, 1):
        assert equal(alone.batches(epoch), many.batches(epoch))
    assert equal(alone.batches(3, start=2), many.batches(3, start=2))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_goes_on_where_it_was(digits_index: ImageIndex, workers: int) -> None:
    whole = list(train(digits_index).batches(7))
    loader = train(digits_index, workers=workers)
    stopped = loader.batches(7)
    before = [next(stopped)]  # left in the middle, with batches under way in the workers
    del stopped
    assert equal(before + list(loader.batches(7, start=1)), whole)
    assert list(loader.batches(7, start=4)) == []


def test_loading_takes_nothing_from_the_global_stream(digits_index: ImageIndex) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(train(digits_index).batches(0))
    list(eval_loader(digits_index, 16, batch_size=40, workers=0))
    assert torch.equal(torch.rand(3), expected)


def test_repeats_show_fewer_images_more_often(digits_index: ImageIndex) -> None:
    loader = train(digits_index, repeats=3)
    batches = list(loader.batches(0))
    assert len(batches) == 4
    rows = torch.cat([batch.ids for batch in batches])
    images = torch.cat([batch.images for batch in batches])
    assert len(rows) == 40
    order = generator(ORDER, 5, 0).permutation(40)
    assert rows.tolist() == np.repeat(order, 3)[:40].tolist()
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[1], images[2])


def test_limit_cuts_epochs(digits_index: ImageIndex) -> None:
    limited = train(digits_index, limit=2)
    assert limited.steps_per_epoch == 2
    assert equal(limited.batches(0), list(train(digits_index).batches(0))[:2])
    assert train(digits_index, limit=99).steps_per_epoch == 4
    part = list(eval_loader(digits_index, 64, batch_size=12, workers=0, limit=2))
    assert torch.cat([batch.ids for batch in part]).tolist() == list(range(24))


def test_overfitting_repeats_the_first_samples_unaugmented(digits_index: ImageIndex) -> None:
    loader = train(digits_index, overfit=True, limit=3)
    assert loader.steps_per_epoch == 3
    batches = list(loader.batches(0)) + list(loader.batches(1, start=2))
    assert len(batches) == 4
    first = next(iter(eval_loader(digits_index, 64, batch_size=12, workers=0)))
    assert all(equal([batch], [first]) for batch in batches)
    assert train(digits_index, overfit=True).steps_per_epoch == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_every_sample_once_in_order(digits_index: ImageIndex, workers: int) -> None:
    loader = eval_loader(digits_index, 32, batch_size=9, workers=workers)
    assert len(loader) == 5
    for _ in range(2):
        batches = list(loader)
        assert torch.cat([batch.ids for batch in batches]).tolist() == list(range(40))
        image = batches[1].images[2].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(image, resize(decode(digits_index.path(11)), 32))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_one_clear_line(digits_index: ImageIndex, tmp_path: Path, workers: int) -> None:
    shutil.copytree(digits_index.root, tmp_path / "images")
    index = replace(digits_index, root=str(tmp_path / "images"))
    Path(index.path(17)).write_bytes(b"broken")
    for batches in (train(index, workers=workers).batches(0), eval_loader(index, 64, batch_size=8, workers=workers)):
        with pytest.raises(DataError) as caught:
            list(batches)
        assert str(caught.value) == f"cannot decode image {index.path(17)} (6 bytes): not an image"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_may_be_replaced_in_training(digits_index: ImageIndex, tmp_path: Path, workers: int) -> None:
    shutil.copytree(digits_index.root, tmp_path / "images")
    index = replace(digits_index, root=str(tmp_path / "images"))
    for row in (3, 17):
        Path(index.path(row)).write_bytes(b"broken")
    batches = list(train(index, workers=workers, on_error="skip").batches(2))
    plain = list(train(digits_index).batches(2))
    messages = [message for batch in batches for message in batch.broken]
    assert {3, 17} == {row for row in (3, 17) if any(index.path(row) in message for message in messages)}
    assert not {3, 17} & set(torch.cat([batch.ids for batch in batches]).tolist())
    for batch, other in zip(batches, plain, strict=True):
        np.testing.assert_array_equal(batch.targets.numpy(), index.targets(batch.ids.numpy()))
        same = batch.ids == other.ids
        assert set(other.ids[~same].tolist()) == {3, 17} & set(other.ids.tolist())
        assert torch.equal(batch.images[same], other.images[same])  # the others are what they would have been
    assert equal(batches, train(index, workers=0, on_error="skip").batches(2))  # by seed, not by accident


def test_a_folder_of_broken_images_stops_all_the_same(digits_index: ImageIndex, tmp_path: Path) -> None:
    index = replace(digits_index, root=str(tmp_path))
    with pytest.raises(DataError, match=r"11 images in a row cannot be decoded, the last one:\ncannot read"):
        next(train(index, on_error="skip").batches(0))


class _Recorder:
    """An augmentation that notes what its generator would draw first."""

    image_size = 64

    def __init__(self) -> None:
        self.drawn: list[int] = []

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        self.drawn.append(int(rng.integers(2**63)))
        return resize(image, 64)


def test_order_augmentation_and_substitutes_draw_from_streams_of_their_own(digits_index, tmp_path, monkeypatch) -> None:
    """SeedSequence pads with zeros: (seed, epoch) would be the stream of row 0, substitute 0 that of its sample."""
    streams: list[int] = []
    plain = np.random.default_rng

    def noted(seed):
        streams.append(int(plain(seed).integers(2**63)))
        return plain(seed)

    monkeypatch.setattr(np.random, "default_rng", noted)
    shutil.copytree(digits_index.root, tmp_path / "images")
    broken = replace(digits_index, root=str(tmp_path / "images"))
    Path(broken.path(0)).write_bytes(b"broken")
    for seed in (0, 5):
        for epoch in range(3):
            list(train(broken, seed=seed, augment=_Recorder(), on_error="skip").batches(epoch))
    assert len(streams) == 6 * (1 + 40 + 1)  # order, images, the substitute of the broken one
    assert len(set(streams)) == len(streams)


def test_no_two_augmentations_are_alike_in_workers_and_epochs(digits_index: ImageIndex) -> None:
    """Each row is the same image: what differs is chance alone, which workers must not share."""
    index = digits_index.subset([5] * 24)
    loader = train(index, batch_size=4, workers=3, augment=PAPER)
    seen = [image.numpy().tobytes() for epoch in (0, 1) for batch in loader.batches(epoch) for image in batch.images]
    assert len(seen) == 48
    assert len(set(seen)) == 48
    again = train(index, batch_size=4, workers=1, augment=PAPER)
    assert seen == [
        image.numpy().tobytes() for epoch in (0, 1) for batch in again.batches(epoch) for image in batch.images
    ]


def test_an_augmentation_of_another_shape_is_named(digits_index) -> None:
    class Wrong:
        image_size = 64

        def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            return image[:32]

    loader = train(digits_index, augment=Wrong())
    with pytest.raises(ValueError, match=r"the augmentation returned uint8 \(32, 64, 3\)"):
        loader.first()


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_processes_share_every_batch_and_every_image(processes: int, digits_index: ImageIndex) -> None:
    """40 images in batches of 12 leave 4 for the last, fewer than five processes."""
    whole = list(train(digits_index).batches(0))
    loaders = [train(digits_index, rank=rank, processes=processes) for rank in range(processes)]
    for step, parts in enumerate(zip(*(loader.batches(0) for loader in loaders), strict=True)):
        counts = [loader.num_images_of(step) for loader in loaders]
        own = [part.ids[:count].tolist() for part, (_, count) in zip(parts, counts, strict=True)]
        assert sorted(row for rows in own for row in rows) == sorted(whole[step].ids.tolist())
        assert {total for total, _ in counts} == {len(whole[step].ids)}
        for part in parts:
            assert len(part.ids) >= 1
            for place, row in enumerate(part.ids.tolist()):
                assert torch.equal(part.images[place], whole[step].images[whole[step].ids.tolist().index(row)])
    overfit = [train(digits_index, rank=rank, processes=processes, overfit=True, limit=3) for rank in range(processes)]
    assert [sum(loader.num_images_of(step)[1] for loader in overfit) for step in range(3)] == [12, 12, 12]
    shares = [
        eval_loader(digits_index, 32, batch_size=7, workers=0, rank=rank, processes=processes, limit=4)
        for rank in range(processes)
    ]
    rows = [row for share in shares for batch in share for row in batch.ids.tolist()]
    assert sorted(rows) == list(range(28))
    assert sum(share.num_images for share in shares) == 28
