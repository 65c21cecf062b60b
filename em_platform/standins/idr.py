"""IDR's originals of study idr0086 as files, its OMERO API, its OME-Zarr images."""

from collections.abc import Mapping
from pathlib import Path

from em_platform.standins.filehost import FileHost
from em_platform.standins.part import Ground, Part, Site, Tree
from em_platform.standins.pixels import Pixels, Three, Voxels

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
    "bench": (184, 775, 1121),
}


def pixels_of(key: str, ground: Ground) -> Pixels:
    """The voxels of an image; all but the first are small in every world."""
    place = list(IMAGES).index(key)
    if place == 0:
        return Pixels(shape=_CHROMATIN_SHAPES[ground.size], variant=11)
    return Pixels(shape=(10 + place, 60, 70 + place), variant=11 + place)


def voxel_nm(name: str) -> tuple[float, float]:
    """Edge in x and y, and in z, as the file name says: `4x4x3nm`."""
    edge, _, depth = next(
        part.removesuffix("nm").split("x") for part in name.split("_") if "nm" in part
    )
    return float(edge), float(depth)


def idr(ground: Ground) -> Part:
    """`ftp.ebi.ac.uk/pub/databases/IDR`."""
    images = {key: pixels_of(key, ground) for key in IMAGES}

    def fill(folder: Path) -> None:
        (folder / FOLDER).mkdir(parents=True)
        for key, name in IMAGES.items():
            _write(folder / FOLDER / name, images[key])

    def truth(key: str) -> Voxels:
        return images[key].whole()

    def settings(urls: Mapping[str, str]) -> dict[str, str]:
        return {"ingest.idr.files_urls": urls["idr-files"] + _ARCHIVE}

    tree = Tree(ground.folder / "idr", fill)
    archive = FileHost(tree, prefix=_ARCHIVE, faults=ground.faults)
    return Part(
        sites={"idr-files": Site(handler=archive)},
        settings=settings,
        keys=tuple(images),
        truth=truth,
    )


def _write(path: Path, pixels: Pixels) -> None:
    """As ImageJ saves a stack: big-endian, one block of pixels, pixels per µm."""
    import tifffile

    edge_nm, depth_nm = voxel_nm(path.name)
    tifffile.imwrite(
        path,
        pixels.whole(),
        imagej=True,
        resolution=(1000 / edge_nm, 1000 / edge_nm),
        metadata={"spacing": depth_nm / 1000, "unit": "\\u00B5m", "axes": "ZYX"},
    )
