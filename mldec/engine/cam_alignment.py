"""Where the cells of a backbone's map lie in the image.

A map is not simply a coarse image: a 3x3 convolution of stride 2 with one pixel of padding puts its outputs on pixels
0, 2, 4, …, not between 0 and 1, 2 and 3, …; after n of them the map lies (2^n - 1) / 2 pixels further to the top left
than an image of its size would, up to half a cell. Networks of patches have no such shift. Which it is, is measured:
the middle of the map is most sensitive to what lies under it. That follows from strides and padding alone, so it is
measured with random weights: those of a trained network prefer some places of an image of noise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mldec.models.tokens import Tokens

ROUNDS, NOISE = 4, 8  # the measurement averages over as many images of noise, a round at a time


def measure_shift(backbone: nn.Module, normalize: Callable[[Tensor], Tensor], image_size: int) -> tuple[float, float]:
    """How far down and to the right the map lies of where an image of its size would lie, in cells, -0.5..0.5.

    It is the centre of the squared gradient of the middle cell (of the middle two or four, where there is no single
    one) by the pixels of images of noise, less the middle of the image. Noise and weights are always the same.

    Args:
        normalize: pixels (B,3,H,W) uint8 to what the backbone takes.
        image_size: side of the images, in pixels.
    """
    backbone = _with_random_weights(backbone)
    parameter = next(backbone.parameters())
    generator = torch.Generator().manual_seed(0)
    energy_HW = torch.zeros(image_size, image_size, dtype=torch.float64, device=parameter.device)
    for _ in range(ROUNDS):
        noise = torch.randint(0, 256, (NOISE, 3, image_size, image_size), generator=generator, dtype=torch.uint8)
        images = normalize(noise.to(parameter.device)).requires_grad_()
        with torch.enable_grad():
            tokens: Tokens = backbone(images)
            assert tokens.grid is not None
            height, width = tokens.grid
            middle_BC = tokens.values.unflatten(1, tokens.grid)[:, _middle(height), _middle(width)].sum(dim=(1, 2))
            signs = torch.randint(0, 2, middle_BC.shape, generator=generator).to(middle_BC) * 2 - 1
            (gradient,) = torch.autograd.grad((signs * middle_BC).sum(), images)
        energy_HW += gradient.double().square().sum(dim=(0, 1))
    energy_HW /= energy_HW.sum().clamp_min(1e-300)
    places = torch.arange(image_size, device=energy_HW.device) - (image_size - 1) / 2
    pixels = (float((energy_HW.sum(dim=1 - axis) * places).sum()) for axis in (0, 1))
    down, right = (shift * cells / image_size for shift, cells in zip(pixels, (height, width), strict=True))
    return min(max(down, -0.5), 0.5), min(max(right, -0.5), 0.5)


def _with_random_weights(backbone: nn.Module) -> nn.Module:
    """A copy with the initial weights of its layers, from a fixed seed; what has no such weights keeps its values."""
    backbone = copy.deepcopy(backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in backbone.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    return backbone


def _middle(length: int) -> slice:
    return slice((length - 1) // 2, length // 2 + 1)
