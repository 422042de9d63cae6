from collections.abc import Callable
from functools import cache

import pytest
import torch

from mldec.models.backbone import Backbone, BackboneConfig
from mldec.registry import BACKBONES


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The networks of these tests are tiny: threads only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def built() -> Callable[[str], Backbone]:
    """A named convolutional backbone with default settings, made once for all tests that only look at it."""
    return cache(lambda name: BACKBONES[name].build(BackboneConfig(name=name), image_size=64))
