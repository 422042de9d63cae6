"""Take 10,000 of the images of CIFAR-100: 80 of each class of train, and 20 of each class of test.

    mldec data download dataset=cifar100 root=data/cifar100
    python scripts/make_cifar_subset.py data/cifar100 cifar100

Of each class the images are taken whose pixels have the smallest SHA-256: the choice is the same whatever the order of
the files. OUT, which must not exist yet, gets `cifar-100-binary/` in the published format.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mldec.data.cifar import FILES, FOLDER, RECORD, read_records
from mldec.errors import DataError

PER_CLASS = {"train.bin": 80, "test.bin": 20}


def take(path: Path, per_class: int) -> bytes:
    """The chosen records of a .bin file, by fine class and then by the SHA-256 of their pixels."""
    by_class = defaultdict[int, list[bytes]](list)
    for record in read_records(str(path)):
        by_class[int(record[1])].append(record.tobytes())
    for label, records in by_class.items():
        if len(records) < per_class:
            raise DataError(f"class {label} has {len(records):,} images, fewer than {per_class}")
        records.sort(key=lambda record: hashlib.sha256(record[2:]).digest())
    return b"".join(record for label in sorted(by_class) for record in by_class[label][:per_class])


def make(source: Path, out: Path) -> None:
    if out.exists():
        raise DataError(f"{out} exists already; name a new folder")
    files = {name: source / FOLDER / name for name in FILES}
    if missing := [str(path) for path in files.values() if not path.is_file()]:
        raise DataError(f"no file {missing[0]}; mldec data download dataset=cifar100 root={source}")
    chosen = {name: take(files[name], count) for name, count in PER_CLASS.items()}
    folder = out / FOLDER
    folder.mkdir(parents=True)
    for name, data in chosen.items():
        (folder / name).write_bytes(data)
        print(f"{folder / name}: {len(data) // RECORD:,} images")
    names = FILES[-1]
    shutil.copyfile(files[names], folder / names)


def main(words: Sequence[str]) -> int:
    if len(words) != 2:
        print(__doc__)
        return 2
    try:
        make(*map(Path, words))
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
