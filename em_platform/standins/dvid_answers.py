"""DVID's answers: its repositories and instances as JSON, pictures, refusals."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from em_platform.standins.dvid_blocks import BLOCK_PX, Instance, Place
from em_platform.standins.messages import Response, as_bytes, as_text

# As the public hemibrain answers; the date has nanoseconds, as Go writes it.
DATA_UUID = "be657e3e71c54a4ba6fa2bd9ca0a4fe5"
_CREATED = "2019-01-25T15:02:37.123456789-05:00"


class Refused(Exception):
    """What DVID answers with 400 and its words."""


class Busy(Exception):
    """What DVID answers with 503 and its words."""


def server_json() -> dict[str, str]:
    """`/api/server/info`."""
    return {
        "Cores": "2",
        "Maximum Cores": "2",
        "DVID Version": "1.0-standin",
        "Datastore Version": "0.9",
        "Storage backend": "stand-in",
        "Mode": "read only",
        "Host": "127.0.0.1",
        "Note": "A stand-in: it speaks DVID's protocol and holds one small volume.",
    }


def repos_json(
    uuid: str, alias: str, instances: Mapping[str, Instance]
) -> dict[str, Any]:
    """`/api/repos/info`: the repositories by their root."""
    return {uuid: repo_json(uuid, alias, instances)}


def repo_json(
    uuid: str, alias: str, instances: Mapping[str, Instance]
) -> dict[str, Any]:
    """`/api/repo/{uuid}/info`."""
    held = {name: instance_json(each, uuid) for name, each in instances.items()}
    node = {
        "Branch": "",
        "Note": "",
        "Log": [],
        "UUID": uuid,
        "VersionID": 1,
        "Locked": True,
        "Parents": [],
        "Children": [],
        "Created": _CREATED,
        "Updated": _CREATED,
    }
    return {
        "Root": uuid,
        "Alias": alias,
        "Description": "Real voxels in a repository of a stand-in",
        "Log": [],
        "Properties": {},
        "DataInstances": held,
        "DAG": {"Root": uuid, "Nodes": {uuid: node}},
        "MutationID": 0,
        "SavedMutationID": 0,
        "Created": _CREATED,
        "Updated": _CREATED,
    }


def instance_json(instance: Instance, uuid: str) -> dict[str, Any]:
    """`/api/node/{uuid}/{name}/info`; every list is x, y, z."""
    first = list(reversed(instance.origin))
    # Inclusive, as DVID counts.
    last = [n - 1 for n in reversed(instance.end)]
    dtype = instance.voxels.dtype
    kind = "labelmap" if instance.is_labels else f"{dtype}blk"
    source = "labelmap" if instance.is_labels else dtype
    room = "labelmap" if instance.is_labels else "imageblk"
    jpeg = instance.stored == "jpeg"
    extents = {"MinPoint": first, "MaxPoint": last}
    extended = {
        "Values": [{"DataType": dtype, "Label": kind if room == "labelmap" else dtype}],
        "Interpolable": not instance.is_labels,
        "BlockSize": [BLOCK_PX] * 3,
        "VoxelSize": list(reversed(instance.voxel_size_nm)),
        "VoxelUnits": ["nanometers"] * 3,
        **extents,
        "MinIndex": [n // BLOCK_PX for n in first],
        "MaxIndex": [n // BLOCK_PX for n in last],
        "Background": instance.background,
        "GridStore": instance.grid_store,
        "ScaleLevel": 0,
    }
    base = {
        "TypeName": kind,
        "TypeURL": f"github.com/janelia-flyem/dvid/datatype/{room}/{source}.go",
        "TypeVersion": "0.2",
        "DataUUID": DATA_UUID,
        "Name": instance.name,
        "RepoUUID": uuid,
        "Compression": (
            f"jpeg compression, level {BLOCK_PX}"
            if jpeg
            else "LZ4 compression, level -1"
        ),
        "Checksum": "No checksum",
        "Syncs": [],
        "Versioned": True,
        # As the public hemibrain says.
        "KVStore": "google cloud storage, bucket hemibrain-raw-grayscale",
        "LogStore": "no mutation log set",
        "Tags": None,
    }
    if instance.is_labels:
        extended |= {"MaxLabel": {}, "MaxRepoLabel": 0, "MaxDownresLevel": 0}
    return {"Base": base, "Extended": extended, "Extents": extents}


def refuse(status: int, words: str) -> Response:
    """Plain text, as Go's `http.Error` writes it."""
    return as_text(f"{words}\n", status=status)


def numbers(text: str) -> list[int]:
    """`64_64_64` as numbers; Refused where it is none."""
    try:
        return [int(each) for each in text.split("_")]
    except ValueError as error:
        raise Refused(f'strconv.Atoi: parsing "{text}": invalid syntax') from error


def box_of(size: list[int], offset: list[int]) -> tuple[Place, Place]:
    """Corner and shape as z, y, x."""
    if len(size) != 3 or len(offset) != 3:
        raise Refused("must specify 3D subvolumes")
    if min(size) < 1:
        raise Refused(f"Illegal geometry requested: {size}")
    return (offset[2], offset[1], offset[0]), (size[2], size[1], size[0])


def as_picture(voxels: NDArray[Any], format_text: str) -> Response:
    """A plane in the format that is asked for, png or `jpg:80`; else Refused."""
    import imagecodecs

    name, _, quality = format_text.partition(":")
    if name in ("", "png"):
        content = imagecodecs.png_encode(voxels)
        return as_bytes(bytes(content), media_type="image/png")
    if name in ("jpg", "jpeg"):
        # 80 is DVID's `DefaultJPEGQuality`.
        content = imagecodecs.jpeg_encode(voxels, level=int(quality or 80))
        return as_bytes(bytes(content), media_type="image/jpeg")
    raise Refused(f"Illegal image format requested: {name}")
