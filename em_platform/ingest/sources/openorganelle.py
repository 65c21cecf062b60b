"""OpenOrganelle: arrays of an anonymous bucket, in Zarr and in older N5.

A dataset is at `<bucket>/<dataset>/<dataset>.zarr` (or `.n5`). A key is the path of
an array with dots, without the container: `jrc_hela-2.em.fibsem-uint16.s1`. A crop is
appended as `.crop_z_y_x_dz_dy_dx`, in voxels of that level.
"""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from em_platform.config import Settings
from em_platform.errors import SourceRefused
from em_platform.formats import (
    ChunkStore,
    Crop,
    Volume,
    chunk_store,
    chunked_format,
    count_chunks,
    folders,
    level_paths,
    list_levels,
    open_chunked,
)
from em_platform.ingest.cosem_manifest import DatasetFacts, facts_of
from em_platform.ingest.http_answers import Answer
from em_platform.ingest.source import Progress
from em_platform.model.ingest import Entry, RawItem, RemoteArray, Snapshot
from em_platform.model.volume import VolumeInfo

_MIB = 2**20
_CONTAINERS = ("zarr", "n5")
# `<array>.crop_` corner and shape, z, y, x.
_CROP = re.compile(r"^(?P<array>.+)\.crop_(?P<numbers>\d+(?:_\d+){5})$")
_NAME = re.compile(r"^[A-Za-z0-9_-]+$")
# Of Zarr 2, Zarr 3 and N5: one of them is in every folder that is an array or group.
_METADATA = (".zattrs", ".zarray", "zarr.json", "attributes.json")


class OpenOrganelle:
    """The bucket that the settings name, read anonymously and gently."""

    name = "openorganelle"

    def __init__(self, settings: Settings) -> None:
        self._limits = settings.ingest.openorganelle
        self._options = {
            "endpoint_url": self._limits.endpoint_url,
            "requests_at_once": self._limits.requests_at_once,
            "requests_per_second": self._limits.requests_per_second,
            "retries": settings.ingest.transfer.retries,
            "memory_limit_mb": self._limits.memory_limit_mb,
            "backoff_s": settings.ingest.transfer.backoff_s,
        }

    def list(self) -> tuple[str, ...]:
        """The configured keys; with `discover` also each level of each EM image."""
        found = dict.fromkeys(self._limits.items)
        if self._limits.discover:
            found |= dict.fromkeys(self._discovered())
        return tuple(found)

    def describe(self, key: str) -> Entry:
        """What the array's metadata say, and the dataset's manifest where one is set.

        Raises
        ------
        SourceRefused
            There is no such array, or it is larger than the settings allow.
        """
        asked = _asked(key)
        url, kind = self._array_url(asked)
        volume = open_chunked(url, format=kind, crop=asked.crop, options=self._options)
        info, crop = volume.info, asked.crop
        if info.pixel_bytes > self._limits.max_array_mb * _MIB:
            info, crop = self._instead(key, info, crop=crop, kind=kind)
        facts, manifest = self._facts(asked.dataset)
        return _entry(
            key, asked, info, crop=crop, kind=kind, facts=facts,
            snapshot=_snapshot(chunk_store(info.uri, self._options), manifest),
        )  # fmt: skip

    def fetch(self, entry: Entry, folder: Path, progress: Progress) -> RawItem:
        """Look whether the bucket holds all chunks; they are read when written."""
        array = _array(entry)
        count = count_chunks(
            array.url, format=array.format, crop=array.crop, options=self._options
        )
        return RawItem(
            expected_chunks=count.expected,
            missing_chunks=count.missing,
            missing=count.missing_names,
            chunks_with_md5=count.with_md5,
            size_bytes=count.size_bytes or 0,
            digest=count.digest,
        )

    def open(self, entry: Entry, folder: Path) -> Volume:
        """The array, read in place."""
        array = _array(entry)
        return open_chunked(
            array.url, format=array.format, crop=array.crop, options=self._options
        )

    def _array_url(self, asked: "_Asked") -> tuple[str, str]:
        tried = []
        root = f"{self._limits.bucket_url.rstrip('/')}/{asked.dataset}"
        for container in asked.containers:
            url = f"{root}/{asked.dataset}.{container}/{asked.path}"
            kind = chunked_format(url, self._options)
            if kind is not None:
                return url, kind
            tried.append(url)
        raise SourceRefused(
            f"openorganelle: nothing is at {' or '.join(tried)}, expected an array; "
            "correct the key (dataset.path.level, with dots)",
            key=asked.key,
        )

    def _instead(
        self, key: str, info: VolumeInfo, *, crop: Crop | None, kind: str
    ) -> tuple[VolumeInfo, Crop | None]:
        """What is taken of an array above the limit, by `large_array_mode`."""
        mode, limit_mb = self._limits.large_array_mode, self._limits.max_array_mb
        if mode == "stream":
            return info, crop
        if mode == "downsample":
            for smaller, cut in self._smaller(info, crop=crop, kind=kind):
                if smaller.pixel_bytes <= limit_mb * _MIB:
                    return smaller, cut
        raise SourceRefused(
            f"openorganelle: {key} is {info.pixel_bytes // _MIB} MiB, expected at most "
            f"{limit_mb} (max_array_mb); raise it, or set large_array_mode to "
            f"{'downsample or ' * (mode == 'skip')}stream",
            key=key,
        )

    def _smaller(
        self, info: VolumeInfo, *, crop: Crop | None, kind: str
    ) -> Iterator[tuple[VolumeInfo, Crop | None]]:
        """Coarser levels of the same image, the finest first."""
        group, _, name = info.uri.rpartition("/")
        known = info.voxel_size_nm
        behind = False
        for level in list_levels(group, format=kind, options=self._options):
            if not behind or known is None or level.voxel_size_nm is None:
                behind = behind or level.path == name
                continue
            factors = [
                max(1, round(b / a))
                for a, b in zip(known, level.voxel_size_nm, strict=True)
            ]
            # The largest counts, as a thin axis may keep its size.
            if max(factors) < self._limits.downsample_factor:
                continue
            cut = _shrunk(crop, factors, level.shape)
            url = f"{group}/{level.path}"
            volume = open_chunked(url, format=kind, crop=cut, options=self._options)
            yield volume.info, cut

    def _facts(self, dataset: str) -> tuple[DatasetFacts, Answer | None]:
        root = self._limits.metadata_url.rstrip("/")
        if not root:
            return DatasetFacts(), None
        store = chunk_store(f"{root}/{dataset}", self._options)
        for name in ("manifest.json", "metadata.json"):
            found = store.read_json(name)
            if found is not None:
                return facts_of(found, url=f"{store.url}/{name}"), found
        return DatasetFacts(), None

    def _discovered(self) -> Iterator[str]:
        """Keys of the EM images in the bucket."""
        bucket = chunk_store(self._limits.bucket_url, self._options)
        at_once = min(8, self._limits.requests_at_once)
        with ThreadPoolExecutor(at_once) as threads:
            datasets = folders(bucket, "")
            for keys in threads.map(partial(self._found_in, bucket), datasets):
                yield from keys

    def _found_in(self, bucket: ChunkStore, dataset: str) -> tuple[str, ...]:
        found = []
        for container in _CONTAINERS:
            inside = f"{dataset}/{dataset}.{container}"
            for image in _images(bucket, inside):
                url = bucket.child(f"{inside}/{image}").url
                for level in level_paths(url, format=container, options=self._options):
                    parts = (dataset, *image.split("/"), level)
                    # A dot within a name would be read as the next step of the path.
                    if all(_NAME.match(part) for part in parts):
                        found.append(".".join(parts))
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A key, taken apart."""

    key: str
    dataset: str
    path: str
    containers: tuple[str, ...]
    crop: Crop | None


def _asked(key: str) -> _Asked:
    cropped = _CROP.match(key)
    dataset, *parts = (cropped["array"] if cropped else key).split(".")
    containers: tuple[str, ...] = _CONTAINERS
    if parts and parts[0] in _CONTAINERS:
        containers, parts = (parts[0],), parts[1:]
    if not parts:
        raise SourceRefused(
            f"openorganelle: {key} names no array, expected dataset.path.level with "
            "dots, such as jrc_mus-nacc-2.recon-2.em.fibsem-int16.s2; correct the key",
            key=key,
        )
    crop = None
    if cropped:
        z, y, x, dz, dy, dx = (int(each) for each in cropped["numbers"].split("_"))
        crop = ((z, y, x), (dz, dy, dx))
    return _Asked(
        key=key,
        dataset=dataset,
        path="/".join(parts),
        containers=containers,
        crop=crop,
    )


def _entry(
    key: str,
    asked: _Asked,
    info: VolumeInfo,
    *,
    crop: Crop | None,
    kind: str,
    facts: DatasetFacts,
    snapshot: Snapshot,
) -> Entry:
    level = str(info.tags.get("level", ""))
    # A group may have been named, or a coarser level taken of what is too large.
    _, _, inside = info.uri.partition(f"/{asked.dataset}/{asked.dataset}.")
    taken = inside.partition("/")[2] or asked.path
    words = facts.words_of(taken.removesuffix(f"/{level}"))
    about = (facts.description, words, f"{taken} of {asked.dataset}")
    # Without a manifest only the array's name tells.
    fibsem = facts.is_fibsem or "fibsem" in asked.path
    return Entry(
        source="openorganelle",
        key=key,
        source_id=f"{asked.dataset}/{asked.path}",
        title=f"{facts.title or asked.dataset} {asked.path}",
        url=f"https://openorganelle.janelia.org/datasets/{asked.dataset}",
        description="; ".join(each for each in about if each),
        modality="FIB-SEM" if fibsem else "EM",
        content="labels" if "labels" in asked.path.split("/") else "grey",
        shape=info.shape,
        dtype=info.dtype,
        voxel_size_nm=info.voxel_size_nm,
        origin_nm=info.origin_nm,
        imaging_start_date=facts.imaging_start_date,
        organism=facts.organism,
        sample=facts.sample,
        license=facts.license,
        citation=facts.citation,
        doi=facts.doi(asked.path),
        aliases=tuple(dict.fromkeys((asked.dataset, asked.path))),
        array=RemoteArray(url=info.uri, format=kind, crop=crop),
        estimated_bytes=info.pixel_bytes,
        additional={
            "dataset": asked.dataset,
            "internal_zarr_path": taken,
            "level": level,
            "container": info.format,
            "compression": str(info.tags.get("compression", "")),
        },
        snapshot=snapshot,
    )


def _snapshot(store: ChunkStore, manifest: Answer | None) -> Snapshot:
    """The metadata of the array and of its group as they came, by name."""
    group, level = store.parent()
    found: Snapshot = {}
    for place, prefix in ((group, ""), (store, f"{level}/")):
        for name in _METADATA:
            content = place.read_json(name)
            if content is not None:
                found[prefix + name] = content
    return found if manifest is None else {**found, "manifest.json": manifest}


def _array(entry: Entry) -> RemoteArray:
    if entry.array is None:
        raise SourceRefused(
            f"openorganelle: the entry of {entry.key} has no array; take it anew",
            key=entry.key,
        )
    return entry.array


def _images(bucket: ChunkStore, inside: str) -> Iterator[str]:
    """Paths of the EM images in a container."""
    inner = folders(bucket, f"{inside}/")
    # Newer containers have `recon-N/em`, older ones `em` at the top.
    roots = [f"{name}/em" for name in inner if name.startswith("recon-")]
    for root in (*roots, *(name for name in inner if name == "em")):
        for name in folders(bucket, f"{inside}/{root}/"):
            yield f"{root}/{name}"


def _shrunk(
    crop: Crop | None, factors: list[int], shape: tuple[int, int, int]
) -> Crop | None:
    """The same region on a coarser level, inside of it."""
    if crop is None:
        return None
    corner = [
        min(first // f, length - 1)
        for first, f, length in zip(crop[0], factors, shape, strict=True)
    ]
    counts = [
        min(max(1, count // f), length - first)
        for count, f, length, first in zip(crop[1], factors, shape, corner, strict=True)
    ]
    z, y, x = corner
    dz, dy, dx = counts
    return (z, y, x), (dz, dy, dx)
