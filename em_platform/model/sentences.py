"""Parts of sentences that many of them have."""

import difflib
from collections.abc import Iterable, Sequence


def counted(number: int, noun: str) -> str:
    """`no images`, `1 image` or `2 images`."""
    return f"{number or 'no'} {noun}{'s' * (number != 1)}"


def size_of(shape: Sequence[int]) -> str:
    """Of an image `(h, w)` width x height, of a volume its axes as they are named."""
    if len(shape) == 2:
        return f"{shape[1]} x {shape[0]} px"
    axes = " (z, y, x)" if len(shape) == 3 else ""
    return f"{' x '.join(map(str, shape))} voxels{axes}"


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean X?` where a known name is like `name`, else nothing."""
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.7)
    return f"; did you mean {found[0]}?" if found else ""


def apart(value: float, limit: float, form: str = ".1f") -> str:
    """`value` with as many more digits as show on which side of `limit` it lies."""
    digits, kind = int(form[1:-1]), form[-1]
    text = f"{value:.{digits}{kind}}"
    while digits < 9 and value != limit and text == f"{limit:.{digits}{kind}}":
        digits += 1
        text = f"{value:.{digits}{kind}}"
    return text
