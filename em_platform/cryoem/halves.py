"""Even and odd: what is made of every other frame alone, for denoising.

Names are the field's: `X_EVN.mrc` and `X_ODD.mrc` beside `X.mrc` (MotionCor2, RELION,
AreTomo3), of sums and stacks alike; their tomograms are `X_EVN_Vol.mrc`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from em_platform.errors import FormatError

VOLUME = "_Vol"
_MARKS = {"even": "_EVN", "odd": "_ODD"}


def half_paths(path: Path) -> dict[str, Path]:
    """Where the halves of an image, stack or tomogram lie, by `even` and `odd`."""
    name = path.name.removesuffix(".gz").rpartition(".")[0]
    stem, end = name.removesuffix(VOLUME), VOLUME if name.endswith(VOLUME) else ""
    return {
        half: path.with_name(f"{stem}{mark}{end}.mrc") for half, mark in _MARKS.items()
    }


def without_halves(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The images alone, without what motion correction writes beside each."""
    beside = {part for path in paths for part in half_paths(path).values()}
    beside |= {path.with_name(f"{path.stem}_noDW.mrc") for path in paths}
    return tuple(path for path in paths if path not in beside)


def have_halves(paths: Iterable[Path]) -> bool:
    """Whether both halves of all are there; not all programs write them."""
    return all(half.is_file() for path in paths for half in half_paths(path).values())


def needed_halves(path: Path) -> dict[str, Path]:
    """The halves of a file.

    Raises
    ------
    FormatError
        One is not there.
    """
    found = half_paths(path)
    for half in found.values():
        if not half.is_file():
            raise FormatError(
                f"{path}: its halves were asked for, and {half.name} is not beside it; "
                "make it from the sums of even and odd frames that motion writes, or "
                "leave out --halves"
            )
    return found
