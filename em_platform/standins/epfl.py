"""EPFL's hippocampus TIFFs: one strip for four rows, and a resolution of 1 PPI."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from em_platform.standins.part import FileHost, Ground, Part, Site, Tree
from em_platform.standins.pixels import Pixels, Three, Voxels

_PREFIX = "/groups/c/cv/cvlab-unit/www/data"
# The real folder begins with a space, %20 in the address.
_FOLDER = " ElectronMicroscopy_Hippocampus"
_SHAPES: dict[str, tuple[Three, Three]] = {
    "small": ((66, 96, 128), (20, 96, 128)),
    "demo": ((133, 192, 256), (41, 192, 256)),
    "bench": ((266, 768, 1024), (41, 192, 256)),
    "real": ((1065, 1536, 2048), (165, 768, 1024)),
}
"""Of the volume, and of training and testing."""
_NAMES = (
    "volumedata",
    "training",
    "training_groundtruth",
    "testing",
    "testing_groundtruth",
)


def epfl(ground: Ground) -> Part:
    """The five TIFFs behind `documents.epfl.ch`."""
    images = {name: _pixels(name, ground) for name in _NAMES}

    def fill(folder: Path) -> None:
        for name, pixels in images.items():
            _write(folder / _FOLDER / f"{name}.tif", name, pixels)

    def truth(key: str) -> Voxels:
        return _voxels(key, images[key], (0, 0, 0), images[key].shape)

    def settings(urls: Mapping[str, str]) -> dict[str, str]:
        place = urls["epfl"] + _PREFIX + _FOLDER.replace(" ", "/%20")
        return {"ingest.epfl.files_urls": place}

    tree = Tree(ground.folder / "epfl", fill)
    host = FileHost(tree, prefix=_PREFIX, faults=ground.faults)
    return Part(
        sites={"epfl": Site(handler=host)},
        settings=settings,
        keys=_NAMES,
        truth=truth,
        trees=(tree,),
    )


def _pixels(name: str, ground: Ground) -> Pixels:
    volume, part = _SHAPES[ground.size]
    shape = volume if name == "volumedata" else part
    # Even variants only: the odd ones are inverted.
    return Pixels(shape=shape, variant=2 + 2 * (_NAMES.index(name) // 2))


def _voxels(name: str, pixels: Pixels, corner: Three, shape: Three) -> Voxels:
    """Ground truth is a mask: 255 where the image beside it is dark."""
    grey = pixels.read(corner, shape)
    if not name.endswith("groundtruth"):
        return grey
    mask: Voxels = ((grey < 90) * 255).astype("uint8")  # type: ignore[operator]
    return mask


def _write(path: Path, name: str, pixels: Pixels) -> None:
    import tifffile

    depth, height, width = pixels.shape

    # Page by page: the real volume has 3.4 GB.
    def pages() -> Iterator[Voxels]:
        for z in range(depth):
            yield _voxels(name, pixels, (z, 0, 0), (1, height, width))[0]

    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path,
        pages(),
        shape=pixels.shape,
        dtype=pixels.dtype,
        photometric="minisblack",
        rowsperstrip=4,
        resolution=(1, 1),
        resolutionunit="INCH",
        metadata=None,
        software=False,
        # A directory for each page, as in the real file, and not one for all.
        contiguous=False,
    )
