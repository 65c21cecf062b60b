"""What a study of IDR says of itself in the files of its repository."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import PurePosixPath
from typing import TypeVar

from em_platform.errors import FormatError, SourceRefused
from em_platform.ingest.crawl import from_any
from em_platform.ingest.web import Web

_FILESETS = re.compile(r"^/?(?:uod/)?idr/filesets/(?P<path>.+)$")
_PROJECT = re.compile(
    r"(?P<study>idr\d{4})-[\w-]+/(?:experiment|screen)(?P<letter>[A-Z]+)"
)
_IN_NAME = re.compile(
    r"(?<!\d)(?P<x>\d+(?:\.\d+)?)x(?P<y>\d+(?:\.\d+)?)x(?P<z>\d+(?:\.\d+)?)nm",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One study; `folder` is where its images lie below a root of the originals."""

    accession: str
    title: str = ""
    license: str = ""
    doi: str = ""
    citation: str = ""
    paper_doi: str = ""
    organism: str = ""
    modality: str = "EM"
    folders: tuple[str, ...] = ()


KNOWN = {
    "idr0086": Study(
        accession="idr0086",
        title=(
            "Chromatin arranges in chains of mesoscale domains with nanoscale "
            "functional topography independent of cohesin"
        ),
        license="CC BY 4.0",
        doi="10.17867/10000141",
        citation=(
            "Miron E, Oldenkamp R, Brown JM, Pinto DMS, Xu CS, Faria AR, Shaban HA, "
            "Rhodes JDP, Innocent C, de Ornellas S, Hess HF, Buckle V, Schermelleh L "
            "(2020). Chromatin arranges in chains of mesoscale domains with nanoscale "
            "functional topography independent of cohesin. Science Advances"
        ),
        paper_doi="10.1126/sciadv.aba8811",
        organism="Homo sapiens",
        modality="FIB-SEM",
        folders=(
            "idr0086-miron-micrographs/20200610-ftp/experimentD/Miron_FIB-SEM/"
            "Miron_FIB-SEM_processed",
        ),
    )
}
"""Studies whose facts are known without asking."""

CODES = {"6001240": "idr0062A"}
"""Image -> study and experiment, for images of the bucket that IDR shows as samples."""


def code_of(project: str) -> str:
    """`idr0062A` of `idr0062-blin-nuclearsegmentation/experimentA`; else nothing."""
    found = _PROJECT.fullmatch(project)
    return f"{found['study']}{found['letter']}" if found else ""


def public_path(path: str) -> str:
    """Where a file lies below the public root, by the path that IDR imported it from.

    IDR's rule: what is below `/uod/idr/filesets` there is below
    `ftp.ebi.ac.uk/pub/databases/IDR`. Nothing for any other path.
    """
    found = _FILESETS.match(path)
    return found["path"] if found else ""


def voxel_of_name(name: str) -> tuple[float, float, float] | None:
    """The voxel (z, y, x) in nm that a file name states as `4x4x3nm`, x first."""
    found = _IN_NAME.search(name)
    if found is None:
        return None
    return float(found["z"]), float(found["y"]), float(found["x"])


def read_study(text: str) -> Study:
    """The study that an `idrNNNN-study.txt` describes: names, then values, by tabs.

    Raises
    ------
    FormatError
        It names no study.
    """
    fields_of: dict[str, str] = {}
    for line in text.removeprefix("\ufeff").splitlines():
        name, _, rest = line.partition("\t")
        values = [value.strip() for value in rest.split("\t") if value.strip()]
        if values and not name.startswith("#"):
            # The first counts: experiments behind the study repeat names.
            fields_of.setdefault(name.strip(), values[0])
    accession = fields_of.get("Comment[IDR Study Accession]", "")
    if not accession.startswith("idr"):
        raise FormatError(
            "idr: a study file names no IDR Study Accession, expected idr and four "
            "digits; fetch it again"
        )
    published = fields_of.get("Study Public Release Date", "")[:4]
    parts = (
        fields_of.get("Study Author List", ""),
        f"({published})" if published else "",
        fields_of.get("Study Publication Title", fields_of.get("Study Title", "")),
    )
    return Study(
        accession=accession,
        title=fields_of.get("Study Title", ""),
        license=fields_of.get("Study License", ""),
        doi=fields_of.get("Study Data DOI", "").removeprefix("https://doi.org/"),
        citation=". ".join(part for part in parts if part),
        paper_doi=fields_of.get("Study DOI", "").removeprefix("https://doi.org/"),
    )


def read_annotations(text: str) -> dict[str, dict[str, str]]:
    """Image name -> what an `-annotation.csv` says of it, by the column's plain name.

    `Characteristics [Cell Line]` becomes `Cell Line`; other names stay.

    Raises
    ------
    FormatError
        It has no column of image names.
    """
    # IDR's tables begin with a byte order mark, as idr0086's do.
    rows = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
    if "Image Name" not in (rows.fieldnames or ()):
        raise FormatError(
            "idr: an annotation file has no column 'Image Name'; fetch it again"
        )
    return {row["Image Name"]: dict(_plain(row)) for row in rows if row["Image Name"]}


def read_file_paths(text: str) -> dict[str, str]:
    """Image name -> path below the public root, from a `-filePaths.tsv`.

    Raises
    ------
    FormatError
        A line is not a target and a path that IDR imports from.
    """
    found = {}
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if not line.strip():
            continue
        path = public_path(line.rpartition("\t")[2].strip())
        if not path:
            raise FormatError(
                f"idr: line {number} of a list of files is {line[:80]!r}, expected a "
                "target, a tab, and a path below /uod/idr/filesets; fetch it again"
            )
        found[PurePosixPath(path).name] = path
    return found


def _plain(row: dict[str, str]) -> Iterator[tuple[str, str]]:
    for column, value in row.items():
        inside = re.search(r"\[(.+)\]", column)
        if value:
            yield (inside[1] if inside else column), value


T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageMetadata:
    """One image in the repository; `path` is below the public root."""

    study: Study | None = None
    annotations: dict[str, str] = field(default_factory=dict)
    path: str = ""


def ask_repository(
    web: Web, templates: Iterable[str], *, project: str, image: str
) -> ImageMetadata:
    """Read the study's, the annotations' and the paths' file of one experiment.

    `templates` are addresses with `{study}` for the part of `project` before the slash,
    such as `https://raw.githubusercontent.com/IDR/{study}/HEAD`. A file that is not
    there is left out.

    Raises
    ------
    FormatError
        A file is not what IDR's repositories hold.
    SourceUnavailable
        The server does not answer.
    """
    repository, _, experiment = project.partition("/")
    roots = [each.replace("{study}", repository).rstrip("/") for each in templates]
    # `idr` and four digits.
    accession = repository[:7]

    def read(name: str, parse: Callable[[str], T], *, otherwise: T) -> T:
        urls = [f"{root}/{name}" for root in roots]
        try:
            return parse(from_any(urls, web.text)[1]) if urls else otherwise
        except SourceRefused:
            return otherwise

    begin = f"{experiment}/{accession}-{experiment}"
    images: dict[str, dict[str, str]] = {}
    paths: dict[str, str] = {}
    study: Study | None = None
    images = read(f"{begin}-annotation.csv", read_annotations, otherwise=images)
    paths = read(f"{begin}-filePaths.tsv", read_file_paths, otherwise=paths)
    return ImageMetadata(
        study=read(f"{accession}-study.txt", read_study, otherwise=study),
        annotations=images.get(image, {}),
        path=paths.get(image, ""),
    )


def together(known: Study, published: Study | None) -> Study:
    """The study as published in the repository, with what was known besides."""
    if published is None:
        return known
    values = {f.name: getattr(published, f.name) for f in fields(published)}
    # An empty field of the repository must not hide what is known.
    plain = Study(accession="")
    return replace(known, **{n: v for n, v in values.items() if v != getattr(plain, n)})
