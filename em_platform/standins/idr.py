"""IDR's originals of study idr0086 as files, its OMERO API, its OME-Zarr images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.model import JsonObject
from em_platform.standins import omero, s3
from em_platform.standins.chunk_stores import (
    BLOSC,
    halved,
    write_zarr_array,
    write_zarr_group,
)
from em_platform.standins.omero import Container, Image, Omero
from em_platform.standins.part import FileHost, Ground, Part, Site, Tree
from em_platform.standins.pixels import Pixels, Three, Voxels

BUCKET = "idr"
NUCLEI = Pixels(shape=(24, 55, 54), dtype="uint16", variant=12)
"""First channel of 6001240, whose real shape is (2, 236, 275, 271)."""
NUCLEI_NM = (500.2, 360.4, 360.4)
CHROMATIN = Pixels(shape=(30, 66, 72), variant=13)
"""Of an image that is made up: electron microscopy in one channel."""
# As the published HeLa and U2OS volumes of idr0086.
CHROMATIN_NM = (20.0, 20.0, 20.0)
LEVELS = 3


def ngff_tree(folder: Path) -> Tree:
    """The bucket's files: two images, each with three levels."""

    def fill(root: Path) -> None:
        first = NUCLEI.whole()
        second = Pixels(shape=NUCLEI.shape, dtype="uint16", variant=14).whole()
        _write_level(
            root / "zarr/v0.4/idr0062A/6001240.zarr",
            np.stack([first, second]),
            edges=(1.0, *(edge / 1000 for edge in NUCLEI_NM)),
            chunks=(1, 1, *NUCLEI.shape[1:]),
        )
        _write_level(
            root / "zarr/v0.4/idr0086D/9846199.zarr",
            CHROMATIN.whole(),
            edges=tuple(edge / 1000 for edge in CHROMATIN_NM),
            chunks=(16, 32, 32),
        )

    return Tree(folder, fill)


def _write_level(
    root: Path, image: NDArray[Any], *, edges: Sequence[float], chunks: Sequence[int]
) -> None:
    """Levels `0`, `1` ...: only y and x are halved, as in IDR's images."""
    factors = (1,) * (image.ndim - 2) + (2, 2)
    datasets: list[JsonObject] = []
    level = image
    for number in range(LEVELS):
        within = [min(c, n) for c, n in zip(chunks, level.shape, strict=True)]
        write_zarr_array(root / str(number), level, chunks=within, compressor=BLOSC)
        grown = [
            edge * factor**number for edge, factor in zip(edges, factors, strict=True)
        ]
        scale = {"type": "scale", "scale": grown}
        datasets.append({"path": str(number), "coordinateTransformations": [scale]})
        level = halved(level, factors)
    write_zarr_group(root, _attributes(image, datasets))


def _attributes(image: NDArray[Any], datasets: list[JsonObject]) -> JsonObject:
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    channels = 1
    if image.ndim == 4:
        channels = image.shape[0]
        axes = [{"name": "c", "type": "channel"}, *axes]
    window = {"start": 0, "end": 65535, "min": 0, "max": 65535}
    return {
        "multiscales": [{"axes": axes, "datasets": datasets, "version": "0.4"}],
        "omero": {
            "id": 1,
            "version": "0.4",
            "channels": [
                {"active": True, "color": "FFFFFF", "label": str(n), "window": window}
                for n in range(channels)
            ],
            "rdefs": {
                "defaultT": 0,
                "defaultZ": image.shape[-3] // 2,
                "model": "color",
            },
        },
    }


_ARCHIVE = "/pub/databases/IDR"
FOLDER = (
    "idr0086-miron-micrographs/20200610-ftp/experimentD/Miron_FIB-SEM/"
    "Miron_FIB-SEM_processed"
)
IMAGES = {
    "9846137": "Figure_S3B_FIB-SEM_U2OS_20x20x20nm_xy.tif",
    "9846138": "Figure_S3B_FIB-SEM_U2OS_20x20x20nm_xz.tif",
    "9846126": "Figure_1E_inset_FIB-SEM_HeLa_G1_4x4x3nm_xz.tif",
    "9846127": "Figure_S3A_FIB-SEM_HeLa_G2_20x20x20nm_xy.tif",
    "9846128": "Figure_S3A_FIB-SEM_HeLa_G2_20x20x20nm_xz.tif",
    "9846129": "Figure_S3C_FIB-SEM_HeLa_G1_20x20x20nm_xy.tif",
    "9846130": "Figure_S3C_FIB-SEM_HeLa_G1_20x20x20nm_xz.tif",
    "9846131": "Figure_S3D_FIB-SEM_HeLa_G1_20x20x20nm_Illastik_xy.tif",
    "9846132": "Figure_S3D_FIB-SEM_HeLa_G1_20x20x20nm_Illastik_xz.tif",
    "9846133": "Figure_S3F+1F_FIB-SEM_HeLa_G1_4x4x4nm_FIB-SEM_Ilastik_xz.tif",
    "9846134": "Movie_S5_FIB-SEM_HeLa_G1_4x4x3nm_xz.tif",
}
"""Image number -> file. Only 9846137's number is that of IDR; 9846137 and 9846138 are
of dataset 10740 (U2OS_chromatin), the others of HeLa_chromatin."""

_CHROMATIN_SHAPES: dict[str, Three] = {
    "small": (23, 97, 140),
    "demo": (46, 194, 280),
    # The true shape: 152 MiB are not too many for a benchmark.
    "bench": (184, 775, 1121),
    "real": (184, 775, 1121),
}


def pixels_of(key: str, ground: Ground) -> Pixels:
    """The voxels of an image; all but the first are small in every world."""
    place = list(IMAGES).index(key)
    if place == 0:
        return Pixels(shape=_CHROMATIN_SHAPES[ground.size], variant=11)
    # Each of another shape: none can be taken for another.
    return Pixels(shape=(10 + place, 60, 70 + place), variant=11 + place)


def voxel_nm(name: str) -> tuple[float, float]:
    """Edge in x and y, and in z, as the file name says: `4x4x3nm`."""
    edge, _, depth = next(
        part.removesuffix("nm").split("x") for part in name.split("_") if "nm" in part
    )
    return float(edge), float(depth)


def idr(ground: Ground) -> Part:
    """`idr.openmicroscopy.org`, `ftp.ebi.ac.uk/pub/databases/IDR`, IDR's bucket."""
    images = {key: pixels_of(key, ground) for key in IMAGES}
    known = {**images, "6001240": NUCLEI, "9846199": CHROMATIN}

    def fill(folder: Path) -> None:
        (folder / FOLDER).mkdir(parents=True)
        for key, name in IMAGES.items():
            _write(folder / FOLDER / name, images[key])

    def truth(key: str) -> Voxels:
        return known[key].whole()

    def settings(urls: Mapping[str, str]) -> dict[str, str]:
        return {
            "ingest.idr.api_url": urls["idr"],
            "ingest.idr.files_urls": urls["idr-files"] + _ARCHIVE,
            "ingest.idr.ngff_urls": f"{urls['idr-s3']}/{BUCKET}/zarr",
        }

    tree = Tree(ground.folder / "idr", fill)
    archive = FileHost(tree, prefix=_ARCHIVE, faults=ground.faults)
    bucket = ngff_tree(ground.folder / "idr-ngff")
    buckets = s3.Buckets({BUCKET: bucket}, faults=ground.faults)
    database = Omero(_images(images), datasets=_DATASETS, projects=_PROJECTS)
    return Part(
        sites={
            "idr": Site(handler=database, refuse=omero.refuse),
            "idr-files": Site(handler=archive),
            "idr-s3": Site(handler=buckets, refuse=s3.refuse),
        },
        settings=settings,
        keys=tuple(known),
        truth=truth,
        trees=(tree, bucket),
    )


_U2OS, _HELA, _MADE_UP, _BLIN = 10740, 10739, 10741, 7754
_PROJECTS = (
    Container(
        id=1158,
        name="idr0086-miron-micrographs/experimentD",
        description=(
            "Publication Title\nChromatin arranges in chains of mesoscale domains with "
            "nanoscale functional topography independent of cohesin\n\nExperiment "
            "Description\nFIB-SEM of chromatin in U2OS and HeLa cells."
        ),
    ),
    Container(id=801, name="idr0062-blin-nuclearsegmentation/experimentA"),
)
_DATASETS = (
    Container(id=_U2OS, name="U2OS_chromatin", parent=1158),
    Container(id=_HELA, name="HeLa_chromatin", parent=1158),
    Container(id=_MADE_UP, name="Made up for the stand-ins", parent=1158),
    Container(id=_BLIN, name="Blin et al., nuclei", parent=801),
)


def _images(images: Mapping[str, Pixels]) -> tuple[Image, ...]:
    """All images of the database, those of the bucket last."""
    originals = tuple(
        Image(
            id=int(key),
            name=IMAGES[key],
            dataset=_U2OS if "U2OS" in IMAGES[key] else _HELA,
            pixels=pixels,
            voxel_nm=(voxel_nm(IMAGES[key])[1], *(voxel_nm(IMAGES[key])[0],) * 2),
            client_path=f"uod/idr/filesets/{FOLDER}/{IMAGES[key]}",
            annotations={
                "Organism": "Homo sapiens",
                "Cell Line": "U2OS" if "U2OS" in IMAGES[key] else "HeLa",
                "Cell Cycle Stage": "G2" if "_G2_" in IMAGES[key] else "G1",
                "Channels": "Channel 1: greyscale cell",
            },
        )
        for key, pixels in images.items()
    )
    nuclei = Image(
        id=6001240,
        name="B1_C1.tif",
        dataset=_BLIN,
        pixels=NUCLEI,
        voxel_nm=NUCLEI_NM,
        client_path="uod/idr/filesets/idr0062-blin-nuclearsegmentation/B1_C1.tif",
        channels=("LaminB1", "Dapi"),
        annotations={"Organism": "Mus musculus"},
    )
    chromatin = Image(
        id=9846199,
        name="Made_up_FIB-SEM_20x20x20nm.zarr",
        dataset=_MADE_UP,
        pixels=CHROMATIN,
        voxel_nm=CHROMATIN_NM,
        client_path=f"uod/idr/filesets/{FOLDER}/Made_up_FIB-SEM_20x20x20nm.zarr",
    )
    return (*originals, nuclei, chromatin)


def _write(path: Path, pixels: Pixels) -> None:
    """As ImageJ saves a stack: big-endian, one block of pixels, pixels per µm."""
    import tifffile

    edge_nm, depth_nm = voxel_nm(path.name)
    tifffile.imwrite(
        path,
        pixels.whole(),
        imagej=True,
        byteorder=">",
        resolution=(1000 / edge_nm, 1000 / edge_nm),
        # ImageJ writes the µ of µm in six ASCII letters.
        metadata={"spacing": depth_nm / 1000, "unit": "\\u00B5m", "axes": "ZYX"},
    )
