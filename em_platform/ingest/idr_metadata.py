"""A study of IDR in the words of its own repository, where one is configured."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from typing import TypeVar

from em_platform.errors import SourceRefused
from em_platform.ingest.crawl import from_any
from em_platform.ingest.idr_study import (
    Study,
    read_annotations,
    read_file_paths,
    read_study,
)
from em_platform.ingest.web import Web

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageMetadata:
    """What the repository says of one image; `path` is below the public root."""

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


def together(known: Study, told: Study | None) -> Study:
    """What the repository tells, and what was known besides."""
    if told is None:
        return known
    said = {f.name: getattr(told, f.name) for f in fields(told)}
    plain = Study(accession="")
    return replace(known, **{n: v for n, v in said.items() if v != getattr(plain, n)})
