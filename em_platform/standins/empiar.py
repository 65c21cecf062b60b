"""EMPIAR's entry API, and what its answers say of each entry."""

from typing import Any

from em_platform.standins.messages import (
    Handler,
    Request,
    Response,
    Router,
    as_json,
    refuse_in_html,
)

_RETINA = "Developing retina in zebrafish 55 hpf larval eye."
_RETINA_DETAILS = (
    f"{_RETINA} \nIt is a SBF-SEM data set. \nThe resolution is 8nm/px in xy and 50nm "
    "per section (z). \n\nIf this is also where to enter, the acquisition conditions "
    "on the FEI Magellan400 SEM were 1.9kV accelerating voltage and 200pA current at "
    "0.5 usec dwell time. \nThe microtome unit of the SBF-SEM is called Gatan 3ViewXP."
)
_DRESDEN = {
    "author_orcid": None,
    "country": "Germany",
    "first_name": "Michaela",
    "last_name": "Wilsch-Bräuninger",
    "middle_name": None,
    "organization": "Max Planck Institute of Molecular Cell Biology and Genetics",
    "post_or_zip": "01307",
    "state_or_province": None,
    "street": None,
    "town_or_city": "Dresden",
}
_NOBODY = dict.fromkeys(_DRESDEN) | {
    "first_name": "Nobody",
    "last_name": "Made-Up",
    "organization": "Stand-ins",
    "country": "Germany",
}


def entry_api() -> Handler:
    """Answers `/empiar/api/entry/<id>`, with and without `EMPIAR-` and last slash."""

    def entry(request: Request) -> Response:
        number = request.params["number"]
        if number not in ENTRIES:
            return as_json({"detail": "Not found."}, status=404)
        return as_json({f"EMPIAR-{number}": ENTRIES[number]})

    router = Router()
    router.add(r"/empiar/api/entry/(?:EMPIAR-)?(?P<number>\d+)/?", entry)
    router.add(r"/empiar/api/.*", lambda _: refuse_in_html(404, "Not Found"))
    return router


def _image_set(
    name: str, *, directory: str, kind: str, shape: tuple[Any, Any, int], **more: Any
) -> dict[str, Any]:
    """One image set; `shape` is width, height and the number of images."""
    width, height, number = shape
    return {
        "category": "reconstructed volumes",
        "data_format": kind,
        "details": None,
        "directory": directory,
        "frame_range_max": None,
        "frame_range_min": None,
        "frames_per_image": 1,
        "header_format": kind,
        "image_height": str(height),
        "image_width": str(width),
        "micrographs_file_pattern": "",
        "name": name,
        "num_images_or_tilt_series": number,
        "picked_particles_directory": "",
        "picked_particles_file_pattern": "",
        "pixel_height": 80.0,
        "pixel_width": 80.0,
        "segmentations": [],
        "voxel_type": "UNSIGNED BYTE",
    } | more


def _entry(
    number: str,
    title: str,
    image_sets: list[dict[str, Any]],
    *,
    method: str,
    size: str,
    author: str,
    person: dict[str, Any],
    dates: tuple[str, str],
) -> dict[str, Any]:
    """The 22 fields of an entry; `dates` are of deposition and of release."""
    named = {"author_orcid": None, "name": author}
    address = {
        "email": "nobody [at] example.org",
        "entry": f"EMPIAR-{number}",
        "fax": None,
    }
    return {
        "authors": [{"author": named}],
        "biostudies_references": [],
        "citation": [_citation(title, named)],
        "corresponding_author": {"author": person},
        "cross_references": [],
        "dataset_size": size,
        "deposition_date": dates[0],
        "empiar_references": [],
        "entry_doi": f"10.6019/EMPIAR-{number}",
        "experiment_type": method,
        "grant_references": [],
        "idr_references": [],
        "imagesets": image_sets,
        "obsolete_date": None,
        "principal_investigator": [person | address | {"telephone": None}],
        "release_date": dates[1],
        "scale": "tissue",
        "status": "REL",
        "title": title,
        "update_date": dates[1],
        "version_history": [],
        "workflow_file": None,
    }


def _citation(title: str, author: dict[str, Any]) -> dict[str, Any]:
    unknown = (
        *("book_chapter_title", "details", "doi", "first_page", "issue", "journal"),
        *("journal_abbreviation", "language", "last_page", "preprint"),
        *("pubmedid", "volume", "year"),
    )
    return {
        **dict.fromkeys(unknown),
        "authors": [author],
        "country": "",
        "editors": [],
        "j_or_nj_citation": False,
        "publication_location": "",
        "publisher": "",
        "published": False,
        "title": title,
    }


def _made_up(number: str, words: str, *image_sets: dict[str, Any]) -> dict[str, Any]:
    return _entry(
        number,
        f"Made up for the stand-ins: {words}",
        list(image_sets),
        method="FIB-SEM",
        size="1.0 MB",
        author="Made-Up N",
        person=_NOBODY,
        dates=("2024-01-01", "2024-01-15"),
    )


ENTRIES = {
    "11759": _entry(
        "11759",
        _RETINA,
        [
            _image_set(
                _RETINA,
                directory="data",
                kind="DM3",
                shape=(5628, 5632, 16),
                details=_RETINA_DETAILS,
            )
        ],
        method="SBF-SEM",
        size="1.2 GB",
        author="Wilsch-Bräuninger M",
        person=_DRESDEN,
        dates=("2023-11-01", "2024-01-15"),
    ),
    "99001": _made_up(
        "99001",
        "one MRC volume",
        _image_set(
            "Medulla, MRC",
            directory="data",
            kind="MRC",
            shape=(90, 80, 40),
            voxel_type="SIGNED 16 BIT INTEGER",
            pixel_width=100.0,
            pixel_height=100.0,
            details="10 nm isotropic.",
        ),
    ),
    "99002": _made_up(
        "99002",
        "TIFF sections, and an MRC volume as second image set",
        _image_set(
            "Medulla, sections",
            directory="data/sections",
            kind="TIFF",
            shape=(90, 80, 12),
            voxel_type="UNSIGNED 16 BIT INTEGER",
            details="8 nm in xy, 30 nm per section (z).",
        ),
        _image_set(
            "Medulla, volume",
            directory="data/volume",
            kind="MRC",
            shape=(70, 60, 30),
            voxel_type="UNSIGNED 16 BIT INTEGER",
            pixel_width=120.0,
            pixel_height=120.0,
        ),
    ),
    "99003": _made_up(
        "99003",
        "one DM4 stack",
        _image_set(
            "Medulla, DM4",
            directory="data",
            kind="DM4",
            shape=(70, 60, 20),
            voxel_type="SIGNED 16 BIT INTEGER",
        ),
    ),
}
"""Number -> what the API says of it. 11759 is real, the others are made up.

That the size of 11759's images is not that of its files is so in EMPIAR, too.
"""
