from dataclasses import replace
from pathlib import Path

import pytest

from mldec.data.coco import CocoConfig, build_coco
from mldec.data.dataset import DatasetConfig
from mldec.data.sources import SOURCES, find_source
from mldec.data.voc import Voc2007Config, Voc2012Config, build_voc
from mldec.errors import ConfigError, DataError

NOTHING = [name for name, source in SOURCES.items() if "nothing" in source]
CASES = [
    (name, year) for name, source in SOURCES.items() if name not in NOTHING for year in source.get("years", [None])
]


@pytest.mark.parametrize(("dataset", "year"), CASES)
def test_every_file_can_be_checked_and_recognised(dataset: str, year: int | None) -> None:
    """`Download` itself refuses unsafe names, other schemes and checksums of a wrong form."""
    wanted = find_source(dataset, year=year, extra=SOURCES[dataset].get("parts", ()))
    assert wanted.downloads or wanted.by_hand
    names = [item.file for item in wanted.downloads]
    assert len(set(names)) == len(names)
    for item in wanted.downloads:
        assert item.urls
        assert all(url.endswith(f"/{item.file}") for url in item.urls)
        assert item.provides
        assert (item.checksum is None) == (item.size is None)
        assert item.checksum or item.unpack is None  # what is unpacked is known to be what was published
        if item.unpack is None:
            assert item.provides == (item.file,)


def test_every_dataset_of_the_house_is_listed() -> None:
    """A new dataset has to say whether it can be fetched."""
    groups = Path(__file__).parents[2] / "configs" / "dataset"
    assert set(SOURCES) == {path.stem for path in groups.glob("*.yaml")}


@pytest.mark.parametrize(
    ("config", "build"),
    [
        (CocoConfig(name="coco", root=""), build_coco),
        (CocoConfig(name="coco", root="", year=2017), build_coco),
        (Voc2007Config(name="voc2007", root=""), build_voc),
        (Voc2012Config(name="voc2012", root=""), build_voc),
    ],
    ids=lambda value: f"{value.name}-{value.year}" if isinstance(value, DatasetConfig) else "",
)
def test_what_readers_want_is_what_is_fetched(tmp_path: Path, config: DatasetConfig, build) -> None:
    """With all that the list promises in place, no reader misses an entry any more."""
    config = replace(config, root=str(tmp_path), cache=str(tmp_path / "cache"))
    for split in config.splits:
        with pytest.raises(DataError, match="expected entries missing"):
            build(config, split=split)
    for item in find_source(config.name, year=config.year).downloads:
        for entry in item.provides:
            place = tmp_path / (f"{entry}file" if entry.endswith("/") else entry)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
    for split in config.splits:
        with pytest.raises(DataError) as caught:
            build(config, split=split)
        assert "missing" not in str(caught.value)


def test_open_images_images_are_asked_for() -> None:
    plain = {item.file for item in find_source("openimages").downloads}
    assert "oidv6-train-annotations-human-imagelabels.csv" in plain
    assert not any(name.endswith(".tar.gz") or "machine" in name for name in plain)
    more = {item.file for item in find_source("openimages", extra=["machine", "validation-images"]).downloads} - plain
    assert more == {
        "validation.tar.gz",
        *(f"{split}-annotations-machine-imagelabels.csv" for split in ("train", "validation", "test")),
    }
    shards = find_source("openimages", extra=["train-images"]).downloads[len(plain) :]
    assert [item.provides for item in shards] == [(f"train/{digit}*.jpg",) for digit in "0123456789abcdef"]
    assert {(item.unpack, item.top) for item in shards} == {("train", f"train_{digit}") for digit in "0123456789abcdef"}


def test_what_cannot_be_fetched_is_explained() -> None:
    for dataset, *words in [
        ("nuswide", "lms.comp.nus.edu.sg", "ImageList.zip", "Flickr/"),
        ("nuswide_zsl", "lms.comp.nus.edu.sg", "NUS_WID_Tags.zip", "nus_seen_925.txt"),
        ("imagenet", "https://image-net.org/download", "ILSVRC2012_img_val.tar", "val/<wnid>/"),
        ("stanford_cars", "cars_test_annos_withlabels.mat", "cars_train/", "car_ims/"),
        ("openimages", "train-images", "train/<ImageID>.jpg"),
    ]:
        assert all(word in find_source(dataset).by_hand for word in words)


def test_wrong_words_are_refused() -> None:
    for dataset in NOTHING:
        with pytest.raises(ConfigError, match=f"dataset={dataset}: there is nothing to download"):
            find_source(dataset)
    with pytest.raises(ConfigError, match="did you mean coco"):
        find_source("cocoo")
    with pytest.raises(ConfigError, match=r"year=2015: coco has no such year; allowed: 2014 or 2017"):
        find_source("coco", year=2015)
    with pytest.raises(ConfigError, match="allowed: leave it out"):
        find_source("cifar100", year=2014)
    with pytest.raises(ConfigError, match=r"extra=machines: .* did you mean machine"):
        find_source("openimages", extra=["machines"])
    with pytest.raises(ConfigError, match="extra=binary: coco has no such part; none"):
        find_source("coco", extra=["binary"])
