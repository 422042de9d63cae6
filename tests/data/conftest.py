"""Small real data for the tests of the data floor."""

from pathlib import Path

import pytest

from mldec.data.digits import DigitsConfig, build_digits
from mldec.data.index import ImageIndex


@pytest.fixture(scope="session")
def digits_config(tmp_path_factory: pytest.TempPathFactory) -> DigitsConfig:
    return DigitsConfig(name="digits", root=str(tmp_path_factory.mktemp("digits")), train=40, val=10, test=10)


@pytest.fixture(scope="session")
def digits_index(digits_config: DigitsConfig) -> ImageIndex:
    return build_digits(digits_config, split="train")


@pytest.fixture(scope="session")
def tiny_coco() -> Path:
    """50 + 50 images of COCO 2017 beside the repository; tests that need them are skipped without."""
    folder = Path(__file__).parents[3] / "shared" / "data" / "tiny_coco"
    if not folder.is_dir():
        pytest.skip("the tiny_coco sample is not here")
    return folder
