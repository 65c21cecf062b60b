"""EBI and EPFL: archives that are folders of files behind a web server."""

import gzip
import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path

import numpy as np

from em_platform.standins.image_files import write_dm, write_mrc
from em_platform.standins.messages import (
    Handler,
    Request,
    Response,
    Router,
    as_json,
    refuse_in_html,
)
from em_platform.standins.part import FileHost, Ground, Part, Site, Tree
from em_platform.standins.pixels import Pixels, Three, Voxels

_ARCHIVE = "/empiar/world_availability"
# `real` has the size of the files that EMPIAR-11759 has; the others are smaller.
_RETINA_SHAPES = {
    "small": (16, 275, 274),
    "demo": (16, 550, 549),
    "bench": (16, 2750, 2748),
    "real": (16, 5500, 5496),
}
# Of the DM3 tag; the entry's text has 8 nm.
_PIXEL_UM = 0.007998250424861908
NUMBERS = ("11759", "99001", "99002", "99003")
"""Of the entries, whose answers and headers are files: 11759 is real, the others are
made up. That the size of 11759's images is not that of its files is so in EMPIAR, too.
"""
RECORDED = files("em_platform.standins") / "recorded"
# A folder of no images beside them, as in the real entry: it must be left out.
_TRAKEM = "trakem2.1528909664283.981147357.856576865"


def ebi(ground: Ground) -> Part:
    """`www.ebi.ac.uk/empiar` and `ftp.ebi.ac.uk/empiar` at one address.

    Site `ebi-mirror` has the same archive; no setting names it.
    """
    retina = Pixels(shape=_RETINA_SHAPES[ground.size], variant=0)
    images = {"11759": retina, **_OTHERS}

    def fill(folder: Path) -> None:
        _write_retina(folder / "11759" / "data", retina)
        _write_others(folder)
        for number in NUMBERS:
            header = RECORDED.joinpath(f"EMPIAR-{number}.xml").read_bytes()
            (folder / number / f"{number}.xml").write_bytes(header)

    def truth(key: str) -> Voxels:
        return images[key].whole()

    def settings(urls: Mapping[str, str]) -> dict[str, str]:
        return {
            "ingest.ebi.api_url": f"{urls['ebi']}/empiar/api",
            "ingest.ebi.files_urls": urls["ebi"] + _ARCHIVE,
        }

    tree = Tree(ground.folder / "ebi", fill)
    archive = FileHost(tree, prefix=_ARCHIVE, faults=ground.faults)
    return Part(
        sites={
            "ebi": Site(handler=_either(entry_api(), archive)),
            "ebi-mirror": Site(handler=archive),
        },
        settings=settings,
        keys=tuple(images),
        truth=truth,
        trees=(tree,),
    )


# 16 bits with and without a sign; `.2` is the second image set of an entry.
_OTHERS = {
    "99001": Pixels(shape=(40, 80, 90), dtype="int16", variant=1),
    "99002": Pixels(shape=(12, 80, 90), dtype="uint16", variant=5),
    "99002.2": Pixels(shape=(30, 60, 70), dtype="uint16", variant=7),
    "99003": Pixels(shape=(20, 60, 70), dtype="int16", variant=9),
}


def entry_api() -> Handler:
    """Answers `/empiar/api/entry/<id>`, with and without `EMPIAR-` and last slash."""

    def entry(request: Request) -> Response:
        number = request.params["number"]
        if number not in NUMBERS:
            return as_json({"detail": "Not found."}, status=404)
        recorded = RECORDED.joinpath(f"EMPIAR-{number}.json").read_bytes()
        return as_json({f"EMPIAR-{number}": json.loads(recorded)})

    router = Router()
    router.add(r"/empiar/api/entry/(?:EMPIAR-)?(?P<number>\d+)/?", entry)
    router.add(r"/empiar/api/.*", lambda _: refuse_in_html(404, "Not Found"))
    return router


def _either(api: Handler, archive: Handler) -> Handler:
    def answer(request: Request) -> Response:
        chosen = archive if request.path.startswith(_ARCHIVE) else api
        return chosen(request)

    return answer


def _write_retina(folder: Path, pixels: Pixels) -> None:
    """16 slices as Gatan's 3View writes them, and TrakEM2's project beside them."""
    folder.mkdir(parents=True)
    depth, height, width = pixels.shape
    for z in range(depth):
        plane = pixels.read((z, 0, 0), (1, height, width))[0]
        name = f"3VBSED_slice_{z:04d}"
        write_dm(
            folder / f"F57-8_test1_{name}.dm3",
            plane,
            pixel_um=_PIXEL_UM,
            name=name,
            tags=_retina_tags(plane, z),
        )
    project = '<?xml version="1.0" encoding="ISO-8859-1"?>\n<trakem2></trakem2>\n'
    # Without the time of day: a world made again has the same bytes.
    packed = gzip.compress(project.encode(), mtime=0)
    (folder / "F57-8_test1.xml.gz").write_bytes(packed)
    mipmaps = folder / _TRAKEM / "trakem2.mipmaps" / "0"
    mipmaps.mkdir(parents=True)
    # The shortest JPEG: begin and end of an image.
    (mipmaps / "1.F57-8_test1_3VBSED_slice_0000.dm3.jpg").write_bytes(
        b"\xff\xd8\xff\xd9"
    )
    (folder / _TRAKEM / "trakem2.masks").mkdir()


def _retina_tags(plane: Voxels, z: int) -> Mapping[str, object]:
    """ImageTags, as far as they matter, with the values of the real first slice."""
    height, width = plane.shape
    return {
        "BSE Detector": {"Bright": 3.5294117647058822, "Contrast": 9.988333707776206},
        "DataBar": {
            "Acquisition Date": "11.06.2018",
            "Acquisition Time": f"22:{27 + z:02d}:16",
            "Device Name": "DigiScan",
            "Exposure Number": 897131 + z,
            "Signal Name": "3VBSED",
        },
        "DigiScan": {
            "Image Height": height,
            "Image Width": width,
            "Rotation": 0.0,
            "Sample Time": 0.5,
        },
        "GMS Version": {"Created": "3.21.1374.0", "Saved": "3.21.1374.0"},
        "Meta Data": {
            "Dimension info": {
                "2": {
                    "Origin": np.float32(0),
                    "Scale": np.float32(50),
                    "Units": "nm",
                }
            },
            "Format": "Image",
            "Signal": "DigiScan",
        },
        "Microscope Info": {
            "Formatted Indicated Mag": "2.2kx",
            "Formatted Voltage": "1.9kV",
            "Illumination Mode": "SEM",
            "Indicated Magnification": 2159.0,
            "Name": "FEI Quanta",
            "Operation Mode": "SCANNING",
            "Stage Position": {
                "Stage X": 79.26780559398513,
                "Stage Y": -773.6633039403846,
                "Stage Z": 21.049806806776274,
            },
            "Voltage": 1900.0,
            "WD (mm)": 5.500151666250906,
        },
        "SBFSEM": {
            "Record": {"Slice number": 250, "Slice thickness": 50.0},
            "Imaging": {"Record pixel size": 8.0, "Record pixel time": 0.5},
        },
        "Session Info": {"Detector": "3VBSED", "Microscope": "", "Specimen": ""},
    }


def _write_others(folder: Path) -> None:
    for number in NUMBERS[1:]:
        (folder / number / "data").mkdir(parents=True)
    write_mrc(
        folder / "99001/data/medulla.mrc", _OTHERS["99001"].whole(), voxel_nm=10.0
    )
    for name in ("sections", "volume"):
        (folder / "99002/data" / name).mkdir()
    _write_sections(folder / "99002/data/sections", _OTHERS["99002"].whole())
    volume = folder / "99002/data/volume/medulla.mrc"
    write_mrc(volume, _OTHERS["99002.2"].whole(), voxel_nm=12.0)
    write_dm(
        folder / "99003/data/medulla.dm4",
        _OTHERS["99003"].whole(),
        pixel_um=0.008,
        name="medulla",
        tags={"Microscope Info": {"Voltage": 300000.0}},
        version=4,
        section_um=0.04,
    )


def _write_sections(folder: Path, voxels: Voxels) -> None:
    """One TIFF a section, 8 nm a pixel by its resolution."""
    import tifffile

    for z, plane in enumerate(voxels):
        tifffile.imwrite(
            folder / f"section_{z:03d}.tif",
            plane,
            photometric="minisblack",
            # 10^7 nm in a centimetre, of 8 nm each.
            resolution=(1_250_000, 1_250_000),
            resolutionunit="CENTIMETER",
            # Else tifffile states the shape in words that only its own reader takes.
            metadata=None,
            software=False,
        )


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
