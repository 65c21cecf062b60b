"""EMPIAR of EMBL-EBI: entries by their number."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from em_platform.config import Settings
from em_platform.errors import SourceError, SourceUnavailable
from em_platform.formats import Volume
from em_platform.ingest.crawl import Found, from_any, with_sizes
from em_platform.ingest.empiar import (
    EmpiarEntry,
    ImageSet,
    Wanted,
    entry_of_json,
    entry_of_xml,
    modality_of,
    wanted_of,
)
from em_platform.ingest.fetch import fetch_files
from em_platform.ingest.image_set import (
    choose_set,
    find_files,
    several_volumes,
    thickness_nm,
)
from em_platform.ingest.source import Progress
from em_platform.ingest.web import Web
from em_platform.model.ingest import Entry, RawItem, RemoteFile, Snapshot

_MOST_HEADS = 256
"""With more files their lengths are not asked for until they are fetched."""

_UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What EMPIAR's answers do not say, or others say wrongly."""

    organism: str = ""
    sample: str = ""


_KNOWN = {
    # Earlier projects called it a mouse's synapse: no alias, for a search believes it.
    "11759": _Known(
        organism="Danio rerio",
        sample="developing retina of a larval eye, 55 hpf",
    )
}


class Ebi:
    """Entries of EMPIAR, and each of their image sets; see `ingest.source.Source`.

    A key is `11759`, `11759.2` for the second image set, `11759.1.3` for the third file
    of a set in which each file is a volume.
    """

    name = "ebi"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ebi = settings.ingest.ebi
        self._web = Web(self.name, self._ebi, settings.ingest.transfer)

    def list(self) -> tuple[str, ...]:
        wanted = [wanted_of(item) for item in self._ebi.items]
        keys = [each.key for each in wanted]
        if self._ebi.discover:
            for number in dict.fromkeys(each.number for each in wanted):
                entry, _ = self._ask(number)
                sets = range(1, len(entry.image_sets) + 1)
                keys += [Wanted(number=number, image_set=n).key for n in sets]
        return tuple(dict.fromkeys(keys))

    def describe(self, key: str) -> Entry:
        wanted = wanted_of(key)
        entry, answer = self._ask(wanted.number)
        image_set = choose_set(entry, wanted)
        root, found = from_any(
            (f"{url.rstrip('/')}/{wanted.number}" for url in self._ebi.files_urls),
            lambda url: find_files(self._web, url, wanted=wanted, image_set=image_set),
        )
        files = self._files(found, root)
        return _entry_of(
            wanted,
            entry,
            image_set,
            files=files,
            url=f"{self._ebi.api_url.rstrip('/').removesuffix('/api')}"
            f"/{entry.accession}/",
            snapshot={"entry": answer},
        )

    def fetch(self, entry: Entry, folder: Path, progress: Progress) -> RawItem:
        return fetch_files(
            entry, folder, web=self._web, settings=self._settings, progress=progress
        )

    def open(self, entry: Entry, folder: Path) -> Volume:
        from em_platform.formats import open_stack, open_volume

        paths = [folder / file.name for file in entry.files]
        if len(paths) == 1:
            return open_volume(str(paths[0]))
        # The first stands for all, of which there may be thousands.
        sections = open_volume(str(paths[0])).info.shape[0]
        if sections > 1:
            raise several_volumes(entry.key, len(paths), name=entry.files[0].name)
        size_nm = entry.voxel_size_nm
        # 0 is a distance that the free text does not name.
        return open_stack(paths, z_nm=(size_nm[0] or None) if size_nm else None)

    def _ask(self, number: str) -> tuple[EmpiarEntry, Any]:
        """The entry, from the API; while that is down, from the archive's header."""
        api = f"{self._ebi.api_url.rstrip('/')}/entry/{number}/"
        try:
            answer = self._web.json(api)
        # A refusal stands: the API knows best which entries there are.
        except SourceUnavailable:
            urls = [
                f"{url.rstrip('/')}/{number}/{number}.xml"
                for url in self._ebi.files_urls
            ]
            try:
                _, header = from_any(urls, self._web.text)
            except SourceError:
                # Then neither answers, and the API's error says more.
                header = ""
            if not header:
                raise
            return entry_of_xml(header), {"xml": header}
        return entry_of_json(answer, number), answer

    def _files(self, found: tuple[Found, ...], root: str) -> tuple[RemoteFile, ...]:
        roots = [url.rstrip("/") for url in self._ebi.files_urls]
        number = root.rpartition("/")[2]
        others = [f"{url}/{number}" for url in roots if f"{url}/{number}" != root]
        files = tuple(
            RemoteFile(
                name=file.path,
                url=file.url,
                mirrors=tuple(file.url.replace(root, other, 1) for other in others),
            )
            for file in found
        )
        return with_sizes(self._web, files) if len(files) <= _MOST_HEADS else files


def _entry_of(
    wanted: Wanted,
    entry: EmpiarEntry,
    image_set: ImageSet,
    *,
    files: tuple[RemoteFile, ...],
    url: str,
    snapshot: Snapshot,
) -> Entry:
    known = _KNOWN.get(wanted.number, _Known())
    sizes = [file.size_bytes for file in files]
    z_nm = thickness_nm(image_set.details)
    return Entry(
        source="ebi",
        key=wanted.key,
        source_id=entry.accession,
        title=entry.title,
        url=url,
        description=image_set.details or image_set.name or entry.title,
        modality=modality_of(entry.experiment_type),
        voxel_size_nm=(z_nm or 0.0, *image_set.pixel_nm)
        if image_set.pixel_nm
        else None,
        organism=known.organism,
        sample=known.sample,
        license="CC0 1.0",
        citation=_citation(entry),
        doi=entry.doi,
        aliases=(entry.accession,),
        files=files,
        # Of files that hold many images, the number says nothing of files.
        stated_files=image_set.number if len(files) > 1 else None,
        estimated_bytes=(
            _stated_bytes(entry) if None in sizes else sum(s for s in sizes if s)
        ),
        additional=_additional(entry, image_set, z_nm=z_nm),
        snapshot=snapshot,
    )


def _citation(entry: EmpiarEntry) -> str:
    """The paper; without one, the entry itself as EMPIAR asks to cite it."""
    own = (", ".join(entry.authors), entry.title.rstrip("."), entry.accession)
    return entry.citation or ". ".join(filter(None, own))


def _additional(
    entry: EmpiarEntry, image_set: ImageSet, *, z_nm: float | None
) -> dict[str, str | int | float | bool]:
    stated: dict[str, str | int | float | bool | None] = {
        "experiment_type": entry.experiment_type,
        "release_date": entry.release_date,
        "authors": "; ".join(entry.authors),  # as `catalog export` parts them
        "paper_doi": entry.citation_doi,
        "image_set": image_set.name,
        "image_sets": len(entry.image_sets),
        "category": image_set.category,
        "stated_format": ", ".join(image_set.formats),
        "stated_voxel_type": image_set.voxel_type,
        # Neither is true of 11759: its files are 5496 x 5500.
        "stated_width_px": image_set.width_px,
        "stated_height_px": image_set.height_px,
        "stated_images": image_set.number,
        "section_nm_from_text": z_nm,
    }
    return {name: value for name, value in stated.items() if value not in (None, "")}


def _stated_bytes(entry: EmpiarEntry) -> int | None:
    """What EMPIAR says of an entry that is one image set, such as `1.9 TB`."""
    number, _, unit = entry.size.partition(" ")
    if len(entry.image_sets) != 1 or unit not in _UNITS:
        return None
    try:
        return round(float(number) * _UNITS[unit])
    except ValueError:
        return None
