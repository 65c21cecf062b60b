"""The flat field of a montage: found beside its tiles, or estimated from them."""

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal
from zipfile import BadZipFile

import cv2
import numpy as np
from numpy.typing import NDArray

from em_platform.errors import ConfigError, DataError
from em_platform.formats import SUFFIXES, is_folder, list_folder, read_image
from em_platform.imaging.correct import (
    FlatField,
    estimate_flat_field,
    flat_field_from_frames,
)
from em_platform.model import Size
from em_platform.model.sentences import size_of
from em_platform.stitching.sidecar_files import REFERENCES
from em_platform.storage.layout import StorageOptions

Kind = Literal["acquired", "estimated"]

_FLAT_PX = 512  # tiles are estimated from at this size: light changes slowly


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFlatField:
    """A flat field and where it is from."""

    kind: Kind
    field: FlatField

    @property
    def digest(self) -> str:
        """SHA-256 of its planes."""
        # The shape too: the same bytes may be a frame of other proportions.
        digest = hashlib.sha256(repr(self.field.gain.shape).encode())
        for plane in (self.field.gain, self.field.dark):
            if plane is not None:
                digest.update(np.ascontiguousarray(plane, np.float32).data)
        return digest.hexdigest()


def acquired_flat_field(
    folder: str, options: StorageOptions | None = None
) -> KnownFlatField | None:
    """From the bright frame in a folder, and the dark one; None without a bright one.

    Raises
    ------
    DataError
        They cannot be read, or do not belong together.
    """
    frames: dict[str, NDArray[Any]] = {}
    for name in list_folder(folder, options) if is_folder(folder, options) else ():
        stem = name.partition(".")[0].lower()
        if stem in REFERENCES and name.lower().endswith(SUFFIXES):
            frames[stem] = read_image(f"{folder}/{name}", options=options or {})
    if "bright" not in frames:
        return None
    field = flat_field_from_frames(frames["bright"], frames.get("dark"))
    return KnownFlatField(kind="acquired", field=field)


def demanded_flat_field(
    folder: str, *, size: Size, options: StorageOptions
) -> KnownFlatField:
    """As `acquired_flat_field`, which must be there and fit tiles of `size`.

    Raises
    ------
    ConfigError
        There is none, or it is of another camera.
    """
    found = acquired_flat_field(folder, options)
    if found is None:
        raise ConfigError(
            f"stitching.tile.flat_field: found no bright.tif in {folder}, expected an "
            "image of the beam without specimen (and dark.tif without beam); put it "
            "there or choose estimate"
        )
    if complaint := misfit(found, size, folder):
        raise ConfigError(complaint)
    return found


def misfit(found: KnownFlatField, size: Size, folder: str) -> str:
    """Why a flat field cannot be applied to tiles of `size`; empty where it can."""
    expected = (size.height_px, size.width_px)
    if found.field.gain.shape == expected:
        return ""
    return (
        f"stitching.tile.flat_field: found {size_of(found.field.gain.shape)} in bright "
        f"of {folder}, expected {size_of(expected)} as in the tiles; take it again "
        "with the camera as it is"
    )


def estimated_flat_field(tiles: Iterable[NDArray[Any]], size: Size) -> KnownFlatField:
    """From the tiles themselves."""
    gain = estimate_flat_field([_reduced(tile) for tile in tiles]).gain
    whole = cv2.resize(
        gain, (size.width_px, size.height_px), interpolation=cv2.INTER_LINEAR
    )
    field = FlatField(gain=np.asarray(whole, dtype=np.float32))
    return KnownFlatField(kind="estimated", field=field)


def mirrored(found: KnownFlatField) -> KnownFlatField:
    """That of a camera whose frames are mirrored left to right before all else."""
    dark = found.field.dark
    field = FlatField(
        gain=np.ascontiguousarray(found.field.gain[:, ::-1]),
        dark=None if dark is None else np.ascontiguousarray(dark[:, ::-1]),
    )
    return KnownFlatField(kind=found.kind, field=field)


def encode_planes(field: FlatField) -> bytes:
    """Gain and dark as one `.npz`; the same bytes each time."""
    buffer = io.BytesIO()
    planes = {"gain": field.gain}
    if field.dark is not None:
        planes["dark"] = field.dark
    # The parts of an .npz are dated 1980 (ZipFile.open), so no time is in it.
    np.savez(buffer, allow_pickle=False, **planes)
    return buffer.getvalue()


def decode_planes(content: bytes, *, kind: Kind, uri: str) -> KnownFlatField:
    """Undoes the former; DataError where the content is none."""
    try:
        # No pickle: what lies beside frames must not be run.
        with np.load(io.BytesIO(content), allow_pickle=False) as planes:
            dark = planes["dark"] if "dark" in planes else None
            field = FlatField(gain=planes["gain"], dark=dark)
    # In all these ways np.load fails on a damaged file.
    except (ValueError, OSError, KeyError, EOFError, BadZipFile) as error:
        raise DataError(
            f"{uri}: not the planes of a flat field ({error}), expected those of the "
            "recipe beside it; delete both"
        ) from error
    return KnownFlatField(kind=kind, field=field)


def _reduced(tile: NDArray[Any]) -> NDArray[Any]:
    scale = _FLAT_PX / max(tile.shape)
    if scale >= 1:
        return tile
    return np.asarray(
        cv2.resize(tile, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    )
