"""What the tests share: one thread a process, a small set of digit scenes, and experiments on it."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.curve import SMALLER, small_experiment

torch.set_num_threads(
    1
)  # the suite runs in several processes, and float sums must not depend on how many cores there are


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Generator[None, pytest.TestReport, Any]:
    """Output with bytes that are not UTF-8 must not end the processes that share the tests: xdist sends text alone."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session", autouse=True)
def index_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the index of every dataset goes, so that nothing is written beside real samples."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLDEC_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def digits_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose digit scenes are drawn by whoever asks first."""
    return tmp_path_factory.mktemp("digits")


@pytest.fixture
def small_digits(digits_root: Path) -> list[str]:
    """Overrides of experiment=digits that make it a matter of a second."""
    return [*small_experiment(digits_root), *SMALLER]
