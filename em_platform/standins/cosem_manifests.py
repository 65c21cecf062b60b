"""OpenOrganelle's manifests of its datasets: microscope, sample, images."""

from typing import Any

from em_platform.standins.messages import Handler, Request, Response, Router, as_json

_BUCKET = "s3://janelia-cosem-datasets"
_DOI = "https://doi.org/"


def manifests() -> Handler:
    """Answers `/<dataset>/manifest.json`."""

    def manifest(request: Request) -> Response:
        found = MANIFESTS.get(request.params["dataset"])
        return as_json(found) if found else as_json({"error": 404}, status=404)

    router = Router()
    router.add(r"/(?P<dataset>[\w-]+)/manifest\.json", manifest)
    return router


def _manifest(
    name: str,
    title: str,
    *,
    grid_nm: tuple[float, float, float],
    size_um: tuple[float, float, float],
    started: str,
    sample: dict[str, Any],
    images: list[dict[str, Any]],
    **more: Any,
) -> dict[str, Any]:
    """A manifest; lengths are z, y, x."""
    imaging = {
        "id": "",
        "institution": "Janelia",
        "gridSpacing": {"unit": "nm", "values": _named(grid_nm)},
        "dimensions": {"unit": "µm", "values": _named(size_um)},
        "startDate": started,
        **{"duration": 25, "biasVoltage": 500.0, "scanRate": 0.1},
        **{"current": 0.25, "primaryEnergy": 900.0},
    }
    metadata = {
        "title": title,
        "id": name,
        "thumbnailURL": f"https://janelia-cosem-datasets.s3.amazonaws.com/{name}/"
        "thumbnail.jpg",
        "imaging": imaging,
        "sample": {"protocol": "", "contributions": "", **sample},
        "institution": ["HHMI/Janelia"],
        "softwareAvailability": "open",
        "DOI": [],
        "publications": [],
        **more,
    }
    sources = {image["name"]: image for image in images}
    view = {
        **{"name": "Default view", "description": "The default view of the data."},
        "sources": list(sources),
        "orientation": [0.0, 1.0, 0.0, 0.0],
    }
    return {"name": name, "metadata": metadata, "sources": sources, "views": [view]}


def _named(lengths: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip("xyz", lengths[::-1], strict=True))


def _image(
    path: str, words: str, *, scale_nm: tuple[float, float, float]
) -> dict[str, Any]:
    return {
        "name": path.rpartition("/")[2],
        "description": words,
        "url": f"{_BUCKET}/{path}",
        "format": "n5" if ".n5/" in path else "zarr",
        "transform": {
            "axes": ["z", "y", "x"],
            "units": ["nm", "nm", "nm"],
            "translate": [0.0, 0.0, 0.0],
            "scale": list(scale_nm),
        },
        "sampleType": "scalar",
        "contentType": "em",
        "displaySettings": {
            "contrastLimits": {"start": 0, "end": 1, "min": 0, "max": 1},
            "color": "white",
            "invertLUT": False,
        },
        "subsources": [],
    }


MANIFESTS = {
    "jrc_hela-2": _manifest(
        "jrc_hela-2",
        "Interphase HeLa cell",
        grid_nm=(5.24, 4.0, 4.0),
        size_um=(33.0, 6.0, 48.0),
        started="2017-06-21",
        sample={
            "description": "Wild-type, interphase HeLa cell (ATCC CCL-2)",
            "organism": ["Human"],
            "type": ["Cell culture"],
            "subtype": ["HeLa"],
            "treatment": ["Wild-type"],
        },
        images=[
            _image(
                "jrc_hela-2/jrc_hela-2.n5/em/fibsem-uint16",
                "FIB-SEM Data (uncompressed)",
                scale_nm=(5.24, 4.0, 4.0),
            )
        ],
        DOI=[{"href": f"{_DOI}10.25378/janelia.13114211", "title": "EM"}],
        publications=[
            {"href": f"{_DOI}10.1038/s41586-021-03992-4", "title": "Xu et al., 2021"}
        ],
    ),
    "jrc_mus-nacc-2": _manifest(
        "jrc_mus-nacc-2",
        "Mouse nucleus accumbens",
        grid_nm=(2.96, 4.0, 4.0),
        size_um=(1.66944, 10.08, 10.384),
        started="2020-01-01",
        sample={
            "description": "Date and conditions are made up for the stand-ins",
            "organism": ["Mouse"],
            "type": ["Tissue"],
            "subtype": ["Brain"],
            "treatment": ["Wild-type"],
        },
        images=[
            _image(
                "jrc_mus-nacc-2/jrc_mus-nacc-2.zarr/recon-2/em/fibsem-int16",
                "FIB-SEM Data",
                scale_nm=(2.96, 4.0, 4.0),
            )
        ],
    ),
}
"""Dataset -> its manifest. That of jrc_hela-2 is real."""
