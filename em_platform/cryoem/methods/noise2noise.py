"""Noise taken out of a tomogram by a network that two noisy halves of it have trained.

What two tomograms of even and odd frames have in common is the specimen, so a network
that predicts one from the other learns it and no noise (Noise2Noise, Lehtinen et al.
2018; for tomograms Buchholz et al. 2019). It is a small 3-D U-Net (Cicek et al. 2016),
trained for each tomogram anew. This module needs the extra `torch`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Volume = NDArray[np.float32]

# Features of the three floors; each floor is half as large as the one above.
_FEATURES = (8, 16, 32)
# Cubes that it learns from, and tiles that it denoises: multiples of 4, as two halvings
# need, the tiles with a margin as wide as the network sees.
_CUBE, _BATCH, _TILE = 32, 4, 96
MARGIN = 16
_RATE = 3e-3
_SAMPLES = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Convolutions of a U-Net, and the mean and spread of what it was trained on."""

    layers: Any
    mean: float
    spread: float


def trained(
    even: NDArray[Any],
    odd: NDArray[Any],
    *,
    steps: int,
    seed: int,
    note: Callable[[int], None] = lambda step: None,
) -> Network:
    """A network trained on two volumes `(z, y, x)` of the same with other noise.

    They may be memory maps: cubes are read where they are used. The same seed on the
    same number of threads gives the same network.
    """
    side = min(_CUBE, *(4 * (length // 4) for length in even.shape))
    every = max(1, round((even.size / _SAMPLES) ** (1 / 3)))
    sample = np.asarray(even[::every, ::every, ::every], np.float32)
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(
            layers=_layers(),
            mean=float(sample.mean(dtype=np.float64)),
            spread=max(float(sample.std(dtype=np.float64)), 1e-20),
        )
        optimizer = torch.optim.Adam(network.layers.parameters(), lr=_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=_RATE, total_steps=steps
        )
        for step in range(steps):
            given, wanted = _cubes(network, (even, odd), rng, side)
            optimizer.zero_grad()
            loss = functional.mse_loss(_through(network.layers, given), wanted)
            loss.backward()
            optimizer.step()
            schedule.step()
            note(step + 1)
    return network


def denoised(network: Network, even: Volume, odd: Volume) -> Volume:
    """The mean of what the network makes of both halves of a slab `(z, y, x)`."""
    deep, height, width = even.shape
    out = np.empty(even.shape, np.float32)
    # Sides become multiples of 4, and have a margin, by mirrors of what is there.
    pads = [(MARGIN, MARGIN + -length % 4) for length in even.shape]
    halves = [np.pad(half, pads, mode="symmetric") for half in (even, odd)]
    for top in range(0, height, _TILE):
        for left in range(0, width, _TILE):
            rows, columns = min(_TILE, height - top), min(_TILE, width - left)
            tile = np.s_[
                :,
                top : top + rows + -rows % 4 + 2 * MARGIN,
                left : left + columns + -columns % 4 + 2 * MARGIN,
            ]
            mean = np.mean([_applied(network, half[tile]) for half in halves], axis=0)
            inner = np.s_[
                MARGIN : MARGIN + deep,
                MARGIN : MARGIN + rows,
                MARGIN : MARGIN + columns,
            ]
            out[:, top : top + rows, left : left + columns] = mean[inner]
    return out


def _applied(network: Network, volume: Volume) -> Volume:
    level = torch.from_numpy((volume - network.mean) / network.spread)
    with torch.no_grad():
        found = _through(network.layers, level[None, None])[0, 0].numpy()
    return np.asarray(found * network.spread + network.mean, np.float32)


def _cubes(
    network: Network,
    halves: tuple[NDArray[Any], NDArray[Any]],
    rng: np.random.Generator,
    side: int,
) -> tuple[Any, Any]:
    """Cubes at random places, mirrored at random, each half as often what is given."""
    pairs = []
    for _ in range(_BATCH):
        corner = [int(rng.integers(length - side + 1)) for length in halves[0].shape]
        at = tuple(slice(first, first + side) for first in corner)
        # Mirrors keep the wedge of angles that was not measured where it is.
        mirror = tuple(slice(None, None, way) for way in rng.choice([-1, 1], 3))
        pair = [np.asarray(half[at], np.float32)[mirror] for half in halves]
        pairs.append(pair[:: int(rng.choice([-1, 1]))])
    batch = (np.array(pairs) - network.mean) / network.spread
    tensors = torch.from_numpy(np.ascontiguousarray(batch, np.float32))
    return tensors[:, 0, None], tensors[:, 1, None]


def _layers() -> Any:
    first, second, third = _FEATURES
    sizes = [
        (1, first), (first, first), (first, second), (second, second),
        (second, third), (third, third), (third + second, second),
        (second + first, first), (first, 1),
    ]  # fmt: skip
    return torch.nn.ModuleList(torch.nn.Conv3d(a, b, 3, padding=1) for a, b in sizes)


def _through(layers: Any, volume: Any) -> Any:
    """The U-Net: down two floors, and up again beside what was there on the way."""

    def apply(x: Any, *numbers: int) -> Any:
        for number in numbers:
            x = functional.leaky_relu(layers[number](x), 0.1)
        return x

    top = apply(volume, 0, 1)
    middle = apply(functional.avg_pool3d(top, 2), 2, 3)
    low = apply(functional.avg_pool3d(middle, 2), 4, 5)
    up = functional.interpolate(low, scale_factor=2, mode="nearest")
    middle = apply(torch.cat([up, middle], dim=1), 6)
    up = functional.interpolate(middle, scale_factor=2, mode="nearest")
    return layers[8](apply(torch.cat([up, top], dim=1), 7))
