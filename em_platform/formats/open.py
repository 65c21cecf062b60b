"""Any supported image as a volume, known by its content and not by its name.

One table, `FORMATS`, has a line for each file format: adding one takes its reader and
that line (docs/how-to/add-a-format.md).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError, StorageError
from em_platform.formats.dm import is_dm, open_dm
from em_platform.formats.mrc import is_mrc, open_mrc
from em_platform.formats.raster import RasterVolume, is_raster, open_raster
from em_platform.formats.source import (
    Source,
    is_folder,
    join_uri,
    list_folder,
    local_path,
    open_source,
)
from em_platform.formats.tiff import CodedVolume, open_tiff
from em_platform.formats.tiff_directory import is_tiff
from em_platform.formats.tiff_pages import PREVIEW
from em_platform.formats.volume import PlainVolume, Region, Volume, bounds_of, shape_of
from em_platform.model.modality import Modality, modality_of
from em_platform.model.sentences import size_of
from em_platform.model.volume import Tag, VolumeInfo
from em_platform.storage.layout import StorageOptions

# Less is rounding in the headers, a change of magnification is more.
_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class StackVolume:
    """Planes that lie in a file each; a region opens only those of its z range."""

    info: VolumeInfo
    planes: tuple[Volume, ...]

    def read(self, region: Region) -> NDArray[Any]:
        """The voxels of a region, `(z, y, x)`, in native byte order."""
        bounds = bounds_of(region, self.info.shape)
        found = np.empty(shape_of(bounds), np.dtype(self.info.dtype))
        if found.size:
            inside = (slice(0, 1), slice(*bounds[1]), slice(*bounds[2]))
            for z in range(*bounds[0]):
                found[z - bounds[0][0]] = self.planes[z].read(inside)[0]
        return found


def stack_of(planes: Sequence[Volume], *, z_nm: float | None = None) -> StackVolume:
    """Volumes of one plane each as one volume, in their order."""
    first = planes[0].info
    for plane in planes:
        _check(plane.info, first)
    voxel = first.voxel_size_nm
    if voxel is not None and z_nm is not None:
        voxel = (z_nm, voxel[1], voxel[2])
    sizes = [plane.info.size_bytes for plane in planes]
    tags: dict[str, Tag] = first.tags | {"files": len(planes)}
    if odd := sum(_differs(plane.info, first) for plane in planes):
        tags["files_of_other_pixel_size"] = odd
    info = first.model_copy(
        update={
            "uri": str(Path(first.uri).parent) if len(planes) > 1 else first.uri,
            "format": f"{first.format} stack",
            "shape": (len(planes), first.shape[1], first.shape[2]),
            "voxel_size_nm": voxel,
            "size_bytes": sum(size for size in sizes if size is not None),
            "tags": tags,
        }
    )
    return StackVolume(info=info, planes=tuple(_light(p, first) for p in planes))


def _light(plane: Volume, shared: VolumeInfo) -> Volume:
    """The plane without what the others have as well: thousands go to each worker."""
    if not isinstance(plane, PlainVolume | CodedVolume | RasterVolume):
        return plane
    source = replace(plane.source, first=b"")
    return replace(plane, info=shared, source=source)


def _differs(found: VolumeInfo, first: VolumeInfo) -> bool:
    """Whether pixels are of another length, as after a change of magnification."""
    lengths = zip(found.voxel_size_nm or (), first.voxel_size_nm or (), strict=False)
    pairs = list(lengths)[1:]
    stated = (found.voxel_size_nm is None) == (first.voxel_size_nm is None)
    return not stated or any(abs(a - b) > _TOLERANCE * b for a, b in pairs)


def _check(found: VolumeInfo, first: VolumeInfo) -> None:
    if found.shape[0] != 1:
        raise FormatError(
            f"{found.uri}: found {found.shape[0]} planes, expected one plane a file of "
            "this stack; open the file by itself",
            uri=found.uri,
        )
    if (found.shape, found.dtype) != (first.shape, first.dtype):
        raise FormatError(
            f"{found.uri}: found {size_of(found.shape[1:])} of {found.dtype}, "
            f"expected {size_of(first.shape[1:])} of {first.dtype} as in {first.uri}; "
            "leave it out or image it again",
            uri=found.uri,
        )


@dataclass(frozen=True, slots=True)
class FileFormat:
    """One kind of image file."""

    name: str
    suffixes: tuple[str, ...]
    """Names of such files in a folder that is one stack; content decides, not these."""
    matches: Callable[[Source], bool]
    read: Callable[[Source], Volume]


FORMATS = (
    FileFormat("DM3", (".dm3",), is_dm, open_dm),
    FileFormat("DM4", (".dm4",), is_dm, open_dm),
    FileFormat("TIFF", (".tif", ".tiff"), is_tiff, open_tiff),
    FileFormat("PNG", (".png",), is_raster, open_raster),
    FileFormat("JPEG", (".jpg", ".jpeg"), is_raster, open_raster),
    # Last, because old MRC files have no mark and are known by their name alone.
    FileFormat("MRC", (".mrc",), is_mrc, open_mrc),
)
"""The first whose `matches` is true reads the file."""

_NAMES = f"{', '.join(each.name for each in FORMATS[:-1])} or {FORMATS[-1].name}"
_SUFFIXES = tuple(suffix for each in FORMATS for suffix in each.suffixes)
_PACKED = {
    b"\x1f\x8b\x08": "a gzip file",
    b"PK\3\4": "a ZIP archive",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\0": "an xz file",
    b"7z\xbc\xaf": "a 7z archive",
    b"(\xb5/\xfd": "a Zstandard file",
    b"\x89HDF": "an HDF5 file",
    b"II\x97\1": "an image series of TIA",
    b"\xd3\xed\xf5\xf2": "a Janelia FIB-SEM DAT file",
    b"%PDF": "a PDF document",
    b"<!": "a web page or XML",
    b"<html": "a web page or XML",
    b"<?xml": "a web page or XML",
}
"""First bytes of what comes instead of an image."""

_FILE_PROTOCOLS = ("http", "https", "s3", "ftp", "memory")
_CHUNK_PROTOCOLS = ("precomputed", "zarr", "zarr2", "zarr3", "n5", "gs")
_CHUNK_OPTIONS = (
    "region",
    "requests_at_once",
    "retries",
    "channel",
    "time",
    "memory_limit_mb",
)


def open_volume(uri: str, options: StorageOptions | None = None) -> Volume:
    """The image at a path or URL: a file, a folder of images, or a chunked array.

    `options` are those of the store, `endpoint_url` and `anon` for `s3://`. Of a file
    behind a URL only what describes it is fetched now, and ranges of it later.

    Raises
    ------
    FormatError
        There is nothing, or nothing that can be read as grey levels along z, y, x.
    StorageError, SourceError
        The store or server does not give the bytes.
    """
    if local_path(uri) is not None:
        return _open_folder(uri, options) if is_folder(uri) else open_file(uri)
    protocol = uri.partition("://")[0]
    if protocol in _CHUNK_PROTOCOLS:
        return _open_chunked(uri, options)
    if protocol not in _FILE_PROTOCOLS:
        raise FormatError(
            f"{uri}: found the protocol {protocol}, expected a path, file, http, "
            "https, s3 or ftp; copy it to one of these",
            uri=uri,
        )
    return _open_remote(uri, options)


def open_file(uri: str, options: StorageOptions | None = None) -> Volume:
    """The image in one file, at a path or URL; only what describes it is read now.

    Raises
    ------
    FormatError
        The file is no image, or one without grey levels along z, y, x.
    """
    source = open_source(uri, options)
    start = source.read(0, 16)
    # Before the formats: a packed file named .mrc would be taken for one.
    packed = [name for mark, name in _PACKED.items() if start.startswith(mark)]
    if packed:
        raise FormatError(
            f"{source.uri}: found {packed[0]}, expected {_NAMES}; unpack or convert it "
            "first",
            uri=source.uri,
        )
    for each in FORMATS:
        if each.matches(source):
            return each.read(source)
    raise FormatError(
        f"{source.uri}: found a file that starts with {start[:4]!r}, expected {_NAMES}"
        "; convert it",
        uri=source.uri,
    )


def open_stack(paths: Sequence[Path], *, z_nm: float | None = None) -> StackVolume:
    """Files of one plane each as a volume, sorted as given; only headers are read now.

    `z_nm` is the distance of planes; without it, it is what the first file says of its
    thickness.

    Raises
    ------
    FormatError
        One cannot be read, has several planes, or differs in shape or type.
    """
    if not paths:
        raise FormatError("stack: found no files, expected at least one; name some")
    return stack_of([open_file(str(path)) for path in paths], z_nm=z_nm)


def inspect(uri: str, options: StorageOptions | None = None) -> VolumeInfo:
    """What is known of the image at a path or URL; errors as of `open_volume`."""
    return open_volume(uri, options).info


def described(info: VolumeInfo) -> dict[str, Any]:
    """The same as plain values for JSON: axes z, y, x, lengths nm, sizes bytes."""
    return info.model_dump(mode="json") | {"pixel_bytes": info.pixel_bytes}


def left_out(info: VolumeInfo) -> str:
    """Images of the file that are no part of the volume; empty: but for previews none.

    The first of them in words, and how many there are.
    """
    found = info.tags.get("left_out", ())
    named = [str(each) for each in found if not str(each).endswith(PREVIEW)]  # type: ignore[union-attr]
    more = f", and {len(named) - 1} more" if len(named) > 1 else ""
    return f"{named[0]}{more}" if named else ""


def extent_nm(info: VolumeInfo) -> tuple[float, float, float] | None:
    """Edges of the whole along z, y, x; 0 where a plane states no thickness."""
    if info.voxel_size_nm is None:
        return None
    z, y, x = (
        length * count
        for length, count in zip(info.voxel_size_nm, info.shape, strict=True)
    )
    return z, y, x


def _open_remote(uri: str, options: StorageOptions | None) -> Volume:
    """A file, else a chunked array, else a folder: in the order of what they cost."""
    for_file = _file_options(uri, options)
    try:
        start = open_source(uri, for_file).read(0, 1)
    except FormatError as error:
        if _is_chunked(uri, options):
            return _open_chunked(uri, options)
        if is_folder(uri, for_file):
            return _open_folder(uri, options)
        raise error
    # Servers of folders answer with a web page instead of a file.
    if start == b"<" and _is_chunked(uri, options):
        return _open_chunked(uri, options)
    if start == b"<" and uri.endswith("/"):
        return _open_folder(uri, options)
    return open_file(uri, for_file)


def _open_folder(uri: str, options: StorageOptions | None) -> Volume:
    for_file = _file_options(uri, options)
    names = list_folder(uri, for_file)
    images = [name for name in names if name.lower().endswith(_SUFFIXES)]
    if local_path(uri) is not None and _is_chunked(uri, options):
        try:
            return _open_chunked(uri, options)
        except FormatError:
            # Others than N5 and precomputed name a file `attributes.json` or `info`.
            if not images:
                raise
    # `slice_10` comes behind `slice_9`.
    images.sort(
        key=lambda name: [
            # Pairs, since Python compares no numbers with words.
            (int(part), "") if part.isdecimal() else (0, part)
            for part in re.split(r"(\d+)", name)
        ]
    )
    if not images:
        raise FormatError(
            f"{uri}: found a folder without images, expected {_NAMES} files, Zarr, N5 "
            "or precomputed; name the file or the array in it",
            uri=uri,
        )
    return stack_of([open_file(join_uri(uri, name), for_file) for name in images])


def _file_options(uri: str, options: StorageOptions | None) -> dict[str, Any]:
    """The options of a file behind a URL; buckets are public unless a key is given."""
    found = {k: v for k, v in (options or {}).items() if k not in _CHUNK_OPTIONS}
    if uri.startswith("s3://") and not found.keys() & {"key", "profile", "anon"}:
        found["anon"] = True
    return found


def _is_chunked(uri: str, options: StorageOptions | None) -> bool:
    from em_platform.formats.chunked import chunked_format

    if not uri.startswith(("http", "s3:")) and local_path(uri) is None:
        return False
    return chunked_format(uri, options) is not None


def _open_chunked(uri: str, options: StorageOptions | None) -> Volume:
    # tensorstore takes a quarter of a second to import; who opens a file needs none.
    from em_platform.formats.chunked import open_chunked

    return open_chunked(uri, options=options)


def stated_modality(uri: str, options: StorageOptions | None = None) -> Modality | None:
    """How the image at `uri` was made, where its file says so."""
    try:
        tags = open_file(uri.partition("#")[0], options).info.tags
    except (FormatError, StorageError):
        return None
    return modality_of(tags.get("modality"))
