"""What voxels say, measured shard by shard and put together in any order.

The histogram's bins are 2**exponent wide and begin at multiples of that, so that two
bins of one width are one bin of the next width: shards of any grey levels are added
without error, and the sum does not depend on their order.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from em_platform.model.volume import VoxelStatistics

BINS = 256
_LEAST_EXPONENT = -1000  # of a width, where all voxels are 0
_MANTISSA_BITS = 50  # finer bins hold the same value

Number = int | float


@dataclass(slots=True, kw_only=True)
class Histogram:
    """Counts of 256 bins; bin i holds values from (first + i) * 2**exponent on."""

    exponent: int
    first: int
    counts: list[int]

    def coarser(self, exponent: int) -> "Histogram":
        """The same counts in wider bins."""
        step = exponent - self.exponent
        if not step:
            return self
        # A shift rounds down below 0 too, as bins do.
        first = self.first >> step
        counts = [0] * BINS
        for i, count in enumerate(self.counts):
            if count:
                counts[((self.first + i) >> step) - first] += count
        return Histogram(exponent=exponent, first=first, counts=counts)

    def added(self, other: "Histogram") -> "Histogram":
        """Both in bins as narrow as hold both."""
        exponent = max(self.exponent, other.exponent)
        one, two = self.coarser(exponent), other.coarser(exponent)
        while True:
            lows, highs = zip(one.bounds(), two.bounds(), strict=True)
            first = min(lows)
            if max(highs) - first < BINS:
                break
            exponent += 1
            one, two = one.coarser(exponent), two.coarser(exponent)
        # 8 bits keep a bin for each grey level, whichever of them occur.
        if self.exponent == other.exponent == exponent and self.first == other.first:
            first = self.first
        counts = [0] * BINS
        for each in (one, two):
            for i, count in enumerate(each.counts):
                if count:
                    counts[each.first + i - first] += count
        return Histogram(exponent=exponent, first=first, counts=counts)

    def bounds(self) -> tuple[int, int]:
        """The first and the last bin that is not empty."""
        filled = [i for i, count in enumerate(self.counts) if count]
        return self.first + filled[0], self.first + filled[-1]


@dataclass(slots=True, kw_only=True)
class Measured:
    """What some shards of level 0 say; `joined` adds those of others.

    `planes` holds the least and the largest value of each section, `shards` by index
    the digest of the pixels, how many are finite, their sum and that of their squares.
    """

    planes: dict[int, tuple[Number, Number]] = field(default_factory=dict)
    shards: dict[tuple[int, ...], tuple[str, int, Number, Number]] = field(
        default_factory=dict
    )
    histogram: Histogram | None = None

    def add(self, index: tuple[int, ...], pixels: NDArray[Any], *, first: int) -> None:
        """Measure a shard, contiguous `(z, y, x)`, whose first section is `first`."""
        planes = pixels.reshape(pixels.shape[0], -1)
        extremes = _extremes(planes)
        low = min(each[0] for each in extremes)
        high = max(each[1] for each in extremes)
        if planes.dtype.kind in "iu" and planes.dtype.itemsize == 2:
            histogram, sums = _of_values(_counts_of_values(planes), low, high)
        else:
            histogram = None if low > high else _histogram(planes, low, high)
            sums = _sums(planes, histogram)
        digest = hashlib.sha256(pixels.data).hexdigest()
        self._join_planes({first + z: each for z, each in enumerate(extremes)})
        self._join_histogram(histogram)
        self.shards[index] = (digest, *sums)

    def join(self, other: "Measured") -> None:
        """Add what other shards say."""
        self._join_planes(other.planes)
        self._join_histogram(other.histogram)
        self.shards |= other.shards

    def _join_planes(self, planes: dict[int, tuple[Number, Number]]) -> None:
        for z, (low, high) in planes.items():
            known = self.planes.get(z, (math.inf, -math.inf))
            self.planes[z] = min(known[0], low), max(known[1], high)

    def _join_histogram(self, histogram: Histogram | None) -> None:
        if self.histogram is None or histogram is None:
            self.histogram = self.histogram or histogram
        else:
            self.histogram = self.histogram.added(histogram)

    def to_json(self) -> bytes:
        """Text from which `measured_of` makes the same again, bit for bit."""
        content = {
            "planes": [[z, *each] for z, each in self.planes.items()],
            "shards": [[list(index), *each] for index, each in self.shards.items()],
            "histogram": self.histogram
            and [self.histogram.exponent, self.histogram.first, self.histogram.counts],
        }
        return json.dumps(content).encode()


def measured_of(content: bytes) -> Measured:
    """What `to_json` has written."""
    found = json.loads(content)
    histogram = found["histogram"]
    return Measured(
        planes={z: (low, high) for z, low, high in found["planes"]},
        shards={tuple(index): tuple(each) for index, *each in found["shards"]},
        histogram=histogram
        and Histogram(exponent=histogram[0], first=histogram[1], counts=histogram[2]),
    )


def statistics_of(
    measured: Measured, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> VoxelStatistics:
    """The statistics of a volume of which all shards were measured."""
    # By index: the digest must not depend on who was measured first.
    shards = [measured.shards[index] for index in sorted(measured.shards)]
    count = sum(each[1] for each in shards)
    total = _sum(each[2] for each in shards)
    squares = _sum(each[3] for each in shards)
    finite = [each for each in measured.planes.values() if each[0] <= each[1]]
    histogram = measured.histogram
    width = 1.0 if histogram is None else math.ldexp(1.0, histogram.exponent)
    begin = 0.0 if histogram is None else histogram.first * width
    return VoxelStatistics(
        minimum=float(min((low for low, _ in finite), default=0)),
        maximum=float(max((high for _, high in finite), default=0)),
        mean=total / count if count else 0.0,
        std=_std(count, total, squares),
        histogram=tuple(histogram.counts) if histogram else (0,) * BINS,
        histogram_range=(begin, begin + BINS * width),
        blank_sections=tuple(
            z for z, (low, high) in sorted(measured.planes.items()) if low >= high
        ),
        content_sha256=_content(shape, dtype, digests=[each[0] for each in shards]),
    )


def _content(
    shape: tuple[int, ...], dtype: np.dtype[Any], *, digests: list[str]
) -> str:
    text = f"{list(shape)} {dtype.name}\n" + "\n".join(digests)
    return hashlib.sha256(text.encode()).hexdigest()


def _sum(numbers: Iterable[Number]) -> Number:
    """Without an error of the order: exact for integers, else rounded once."""
    listed = list(numbers)
    if all(isinstance(each, int) for each in listed):
        return sum(listed)
    return math.fsum(listed)


def _std(count: int, total: Number, squares: Number) -> float:
    if not count:
        return 0.0
    # Integers are exact: no digits cancel however large the mean is.
    if isinstance(total, int) and isinstance(squares, int):
        return math.sqrt((count * squares - total * total) / count**2)
    # Rounding may leave a little less than 0.
    return math.sqrt(max(0.0, squares / count - (total / count) ** 2))


def _extremes(planes: NDArray[Any]) -> list[tuple[Number, Number]]:
    # NaN and infinity become the extremes: only then is a second look needed.
    lows, highs = planes.min(axis=1), planes.max(axis=1)
    if planes.dtype.kind == "f" and not np.isfinite([lows, highs]).all():
        is_finite = np.isfinite(planes)
        lows = planes.min(axis=1, where=is_finite, initial=np.inf)
        highs = planes.max(axis=1, where=is_finite, initial=-np.inf)
    return list(zip(lows.tolist(), highs.tolist(), strict=True))


def _counts_of_values(planes: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """How often each value of 16 bits occurs: the values that do, and their counts."""
    counts = np.zeros(2**16, np.int64)
    step = max(1, 2**24 // planes.shape[1])  # calcHist counts in float32
    for at in range(0, len(planes), step):
        # It takes no signed type either; the bits are taken back below.
        part = planes[at : at + step].view(np.uint16)
        found = cv2.calcHist([part], [0], None, [2**16], [0, 2**16])
        counts += found.ravel().astype(np.int64)
    (occurring,) = counts.nonzero()
    values = occurring.astype(np.uint16).view(planes.dtype).astype(np.int64)
    return values, counts[occurring]


def _of_values(
    found: tuple[NDArray[Any], NDArray[np.int64]], low: Number, high: Number
) -> tuple[Histogram | None, tuple[int, Number, Number]]:
    """Histogram; number, sum and sum of squares, all exact."""
    values, counts = found
    exponent, first = _bins(np.dtype(np.int16), low, high)  # uint16 has the same
    bins = np.zeros(BINS, np.int64)
    np.add.at(bins, (values >> exponent) - first, counts)
    histogram = Histogram(exponent=exponent, first=first, counts=bins.tolist())
    total, squares = int(values @ counts), int(values**2 @ counts)
    return histogram, (int(counts.sum()), total, squares)


def _histogram(planes: NDArray[Any], low: Number, high: Number) -> Histogram:
    exponent, first = _bins(planes.dtype, low, high)
    counts = np.zeros(BINS, np.int64)
    for plane in planes:
        values = plane
        if plane.dtype.kind == "f":
            # ldexp is exact: no value is rounded into the next bin.
            values = np.floor(np.ldexp(_finite(plane), -exponent)) - first
        elif plane.dtype != np.uint8:
            values = (plane >> exponent) - plane.dtype.type(first)
        grey = values.astype(np.uint8, copy=False).reshape(1, -1)
        if grey.size:
            found = cv2.calcHist([grey], [0], None, [BINS], [0, BINS])
            counts += found.ravel().astype(np.int64)
    return Histogram(exponent=exponent, first=first, counts=counts.tolist())


def _bins(dtype: np.dtype[Any], low: Number, high: Number) -> tuple[int, int]:
    """The least exponent whose bins hold all values, and the first bin."""
    if dtype.itemsize == 1:
        return 0, int(np.iinfo(dtype).min)
    if dtype.kind in "iu":
        exponent = max(0, (int(high) - int(low)).bit_length() - 8)
        # A range that straddles a multiple would need one bin too many.
        while (int(high) >> exponent) - (int(low) >> exponent) >= BINS:
            exponent += 1
        return exponent, int(low) >> exponent
    largest = max(abs(low), abs(high))
    if not largest:
        return _LEAST_EXPONENT, 0
    exponent = math.frexp(largest)[1] - _MANTISSA_BITS
    if high > low:
        # Halves first: high - low may overflow.
        exponent = max(exponent, math.frexp(high / 2 - low / 2)[1] - 8)
    while _bin(high, exponent) - _bin(low, exponent) >= BINS:
        exponent += 1
    return exponent, _bin(low, exponent)


def _bin(value: Number, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))


def _sums(
    planes: NDArray[Any], histogram: Histogram | None
) -> tuple[int, Number, Number]:
    """How many voxels are finite, their sum and that of their squares.

    Exact for 8 bits, else in double precision.
    """
    if histogram is None:
        return 0, 0.0, 0.0
    if planes.dtype.itemsize == 1:
        pairs = [(histogram.first + i, n) for i, n in enumerate(histogram.counts) if n]
        total = sum(value * n for value, n in pairs)
        return planes.size, total, sum(value * value * n for value, n in pairs)
    count, totals, squared = 0, [], []
    for plane in planes:
        values = _finite(plane)
        count += values.size
        totals.append(float(values.sum()))
        squared.append(float(np.square(values).sum()))
    return count, math.fsum(totals), math.fsum(squared)


def _finite(plane: NDArray[Any]) -> NDArray[np.float64]:
    values = plane.astype(np.float64)
    is_finite = np.isfinite(values)
    return values if is_finite.all() else values[is_finite]
