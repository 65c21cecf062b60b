"""DM3, DM4 and MRC files as microscopes write them; no code of the readers is used."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_IMAGE_TYPES = {
    "int16": 1,
    "float32": 2,
    "uint8": 6,
    "int32": 7,
    "int8": 9,
    "uint16": 10,
    "uint32": 11,
    "float64": 12,
}
"""numpy's name -> ImageData.DataType."""
_RGBA = 23

_TAG_TYPES = {
    "int16": 2,
    "int32": 3,
    "uint16": 4,
    "uint32": 5,
    "float32": 6,
    "float64": 7,
    "bool": 8,
    "int8": 9,
    "uint8": 10,
    "int64": 11,
    "uint64": 12,
}
"""numpy's name -> how a tag encodes such a number."""
# Numbers of the format, as its descriptions have them (see `formats/dm.py`).
_STRUCT, _ARRAY = 15, 20
_GROUP_ENTRY, _VALUE_ENTRY = 20, 21

Tags = Mapping[str, Any]


def write_dm(
    path: Path,
    image: NDArray[Any],
    *,
    pixel_um: float,
    name: str,
    tags: Tags,
    version: int = 3,
    section_um: float | None = None,
) -> None:
    """Write one image `(y, x)` or stack `(z, y, x)` with its thumbnail.

    `tags` become ImageTags; a list becomes a group of unnamed groups or values.
    `version` is 3 or 4. Without `section_um` a stack states no step along z.
    """
    root = {
        "DocumentObjectList": [
            {
                "AnnotationType": 20,
                "ImageDisplayInfo": {
                    "BrightColor": (-1, -1, -1),
                    "CLUTName": "Greyscale",
                },
                "ImageSource": 0,
                "Rectangle": (0.0, 0.0, float(image.shape[-2]), float(image.shape[-1])),
            }
        ],
        "HasWindowPosition": True,
        "ImageList": [
            # In front, as in real files: a reader has to pass it over.
            _image_entry(
                _thumbnail(image), _RGBA, pixel=None, name=f"Image Of {name}", tags={}
            ),
            _image_entry(
                image,
                _IMAGE_TYPES[image.dtype.name],
                pixel=pixel_um,
                name=name,
                tags=tags,
                section_um=section_um,
            ),
        ],
        "ImageSourceList": [
            {"ClassName": "ImageSource:Simple", "Id": [0], "ImageRef": 1}
        ],
        "InImageMode": True,
        "MinVersionList": [{"RequiredVersion": 50659328}],
        "Thumbnails": [{"ImageIndex": 0, "SourceSize_Pixels": (4, 4)}],
    }
    body = _Writer(version).group(root) + bytes(8)
    layout = ">iii" if version == 3 else ">iqi"
    # The length is that of the tags, without the eight bytes that end the file.
    path.write_bytes(struct.pack(layout, version, len(body) - 8, 1) + body)


def _image_entry(
    image: NDArray[Any],
    kind: int,
    *,
    pixel: float | None,
    name: str,
    tags: Tags,
    section_um: float | None = None,
) -> Tags:
    scale, unit = (1.0, "") if pixel is None else (pixel, "µm")
    # DigitalMicrograph has x first.
    sizes = image.shape[::-1]
    dimensions = [
        {"Origin": np.float32(0), "Scale": np.float32(scale), "Units": unit}
        for _ in sizes[:2]
    ]
    none = {"Origin": np.float32(0), "Scale": np.float32(1), "Units": ""}
    thick = {**none, "Scale": np.float32(section_um or 1), "Units": "µm"}
    dimensions += [thick if section_um else none for _ in sizes[2:]]
    return {
        "ImageData": {
            "Calibrations": {
                "Brightness": none,
                "Dimension": dimensions,
                "DisplayCalibratedUnits": True,
            },
            "Data": image.ravel(),
            "DataType": np.uint32(kind),
            "Dimensions": [np.uint32(size) for size in sizes],
            "PixelDepth": np.uint32(image.dtype.itemsize),
        },
        "ImageTags": dict(tags),
        "Name": name,
        "UniqueID": [np.uint32(90011980), np.uint32(1033506943)],
    }


def _thumbnail(image: NDArray[Any]) -> NDArray[np.int32]:
    """At most 32 x 32 pixels of the middle plane, as packed grey RGBA."""
    plane = image.reshape(-1, *image.shape[-2:])[-1]
    step = max(1, max(plane.shape) // 32)
    small = plane[::step, ::step].astype(np.float64)
    span = float(np.ptp(small)) or 1.0
    grey = ((small - small.min()) / span * 255).astype(np.uint32)
    packed: NDArray[np.int32] = (
        (grey * 0x010101 | 0xFF000000).astype(np.uint32).view(np.int32)
    )
    return packed


class _Writer:
    """Tags of one version to bytes."""

    def __init__(self, version: int) -> None:
        # DM4 has all counts in 64 bits, and the size of each entry.
        self._count = ">i" if version == 3 else ">q"
        self._sized = version == 4

    def group(self, tags: Tags | Sequence[Any]) -> bytes:
        """A group: two flags, how many entries, the entries."""
        if isinstance(tags, Mapping):
            entries = list(tags.items())
        else:
            entries = [("", value) for value in tags]
        head = struct.pack(">bb", 1, 0) + self._number(len(entries))
        return head + b"".join(self._entry(name, value) for name, value in entries)

    def _entry(self, name: str, value: Any) -> bytes:
        written = name.encode("latin-1")
        if isinstance(value, Mapping | list):
            kind, body = _GROUP_ENTRY, self.group(value)
        else:
            kind, body = _VALUE_ENTRY, self._value(value)
        size = self._number(len(body)) if self._sized else b""
        # Names and counts are big-endian, though the values are little-endian.
        return struct.pack(">bh", kind, len(written)) + written + size + body

    def _value(self, value: Any) -> bytes:
        if isinstance(value, tuple):
            fields = [_scalar(each) for each in value]
            places = [place for each in fields for place in (0, _code(each))]
            body = b"".join(_little(each) for each in fields)
            return self._described([_STRUCT, 0, len(fields), *places]) + body
        if isinstance(value, str):
            # A text is an array of UTF-16 numbers.
            value = np.frombuffer(value.encode("utf-16-le"), "<u2")
        if isinstance(value, np.ndarray):
            return self._described([_ARRAY, _code(value), value.size]) + _little(value)
        scalar = _scalar(value)
        return self._described([_code(scalar)]) + _little(scalar)

    def _described(self, places: Sequence[int]) -> bytes:
        numbers = b"".join(self._number(place) for place in places)
        return b"%%%%" + self._number(len(places)) + numbers

    def _number(self, value: int) -> bytes:
        return struct.pack(self._count, value)


def _scalar(value: Any) -> NDArray[Any]:
    """A number as DigitalMicrograph keeps it: int32 or uint32, a float as double."""
    if isinstance(value, int) and not isinstance(value, bool):
        return np.asarray(value, "i4" if value < 2**31 else "u4")
    return np.asarray(value)


def _code(value: NDArray[Any]) -> int:
    return _TAG_TYPES[value.dtype.name]


def _little(value: NDArray[Any]) -> bytes:
    return value.astype(value.dtype.newbyteorder("<")).tobytes()


# The numbers of MRC2014 (www.ccpem.ac.uk/mrc_format/mrc2014.php).
_MODES = {"int8": 0, "int16": 1, "float32": 2, "uint16": 6}


def write_mrc(path: Path, voxels: NDArray[Any], *, voxel_nm: float) -> None:
    """Write a volume `(z, y, x)` of cubic voxels, little-endian."""
    z, y, x = voxels.shape
    # In ångström.
    edge = voxel_nm * 10
    # Words 1-10, cell in angstrom, angles, axes, density, space group 1: a volume.
    head = struct.pack("<10i", x, y, z, _MODES[voxels.dtype.name], 0, 0, 0, x, y, z)
    head += struct.pack("<6f", x * edge, y * edge, z * edge, 90, 90, 90)
    head += struct.pack("<3i", 1, 2, 3)
    head += struct.pack("<3f", voxels.min(), voxels.max(), voxels.mean())
    head += struct.pack("<2i", 1, 0)
    # Words 27 and 28: no extended header, version 2014.0.
    head = head.ljust(104, b"\0") + b"    " + struct.pack("<i", 20140)
    # Words 53 and 54: `MAP `, and the stamp of little-endian numbers.
    head = head.ljust(208, b"\0") + b"MAP " + bytes((0x44, 0x44, 0, 0))
    head += struct.pack("<f", voxels.std()) + struct.pack("<i", 1)
    head += b"made for a stand-in".ljust(80)
    values = voxels.astype(np.dtype(voxels.dtype.name).newbyteorder("<"))
    path.write_bytes(head.ljust(1024, b"\0") + values.tobytes())
