"""Properties: what decode refuses is found, whoever looks; the list that is written is honoured."""

import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mldec.data.coco import CocoJsonConfig, build_coco_json
from mldec.data.digits import DigitsConfig
from mldec.data.exclusions import add_exclusions
from mldec.data.index import ImageIndex
from mldec.data.verify import Problem, for_each_image, unlisted_images, verify, write_list
from mldec.data.workers import STOPS
from mldec.errors import DataError


@pytest.fixture
def broken(digits_index: ImageIndex, tmp_path: Path) -> ImageIndex:
    """A copy of the digits with a cut, an empty and a missing image, and two images and a text too many."""
    folder = tmp_path / "data" / "images"
    shutil.copytree(digits_index.root, folder)
    index = replace(digits_index, root=str(folder))
    Path(index.path(3)).write_bytes(Path(index.path(3)).read_bytes()[:-300])
    Path(index.path(17)).write_bytes(b"")
    Path(index.path(30)).unlink()
    for name in ("b.PNG", "a.jpg", "notes.txt"):
        (folder / name).touch()
    return index


@pytest.mark.parametrize("workers", [1, 3])
def test_all_that_cannot_be_decoded_is_found_in_order(broken: ImageIndex, workers: int) -> None:
    done: list[int] = []
    problems = verify(broken, workers=workers, on_done=done.append)
    assert [problem.path for problem in problems] == [broken.path(row) for row in (3, 17, 30)]
    assert all(problem.path in problem.reason for problem in problems)
    assert sum(done) == len(broken)


def crash(index: ImageIndex, row: int) -> Problem | None:
    if row == 21:
        os._exit(1)
    return None


def test_a_process_that_dies_is_an_error_and_no_wait(digits_index: ImageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mldec.data.verify.CHUNK", 8)
    with pytest.raises(DataError, match=r"a process died on one of the images 0000(01|09|17).jpg to .* workers=1"):
        for_each_image(digits_index, crash, workers=1, on_done=lambda count: None)


def test_images_that_nobody_mentions_are_found(broken: ImageIndex) -> None:
    folder = Path(broken.root)
    assert unlisted_images([broken]) == [str(folder / "a.jpg"), str(folder / "b.PNG")]
    part = broken.subset(range(20)), broken.subset(range(20, 40))
    assert unlisted_images(part) == unlisted_images([broken])
    assert len(unlisted_images(part[:1])) == 2 + 20 - 1  # one of the others is gone


def test_lists_are_merged_and_honoured(
    broken: ImageIndex, digits_config: DigitsConfig, digits_index: ImageIndex, tmp_path: Path
) -> None:
    problems = verify(broken, workers=1)
    write_list(problems, tmp_path / "out" / "problems.txt")
    lines = (tmp_path / "out" / "problems.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == [problem.path for problem in problems]
    list_file = tmp_path / "data" / "excluded.txt"
    list_file.write_text("# by hand\nimages/000001.jpg\n")
    names = [os.path.relpath(problem.path, tmp_path / "data") for problem in problems]
    assert add_exclusions(names, list_file) == 4
    assert add_exclusions([*names, os.path.relpath(broken.path(5), tmp_path / "data")], list_file) == 5

    annotations = Path(digits_index.root).parent / "annotations" / "instances_train.json"
    config = CocoJsonConfig(
        name="coco_json", root=str(tmp_path / "data"), train=str(annotations), train_images=broken.root
    )
    index = build_coco_json(config, split="train")
    gone = {broken.name(row) for row in (0, 3, 5, 17, 30)}
    assert set(index.names()) == set(broken.names()) - gone
    assert verify(index, workers=1) == []


def dispositions(index: ImageIndex, row: int) -> Problem:
    kinds = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    return Problem(str(row), f"{[int(kind) for kind in kinds]} {signal.pthread_sigmask(signal.SIG_BLOCK, [])}")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_processes_do_not_stop_in_the_way_of_the_main_process(digits_index: ImageIndex) -> None:
    """Its handlers, which they inherit, raise: each process would print a traceback."""
    found = for_each_image(digits_index.subset([0]), dispositions, workers=1, on_done=lambda count: None)
    assert [problem.reason for problem in found] == [f"{[int(signal.SIG_IGN), 0, 0]} set()"]
    assert not set(STOPS) & set(signal.pthread_sigmask(signal.SIG_BLOCK, []))
