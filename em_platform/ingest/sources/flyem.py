"""FlyEM of Janelia: crops of the hemibrain from DVID or Google's bucket."""

import logging
from functools import cached_property
from pathlib import Path
from typing import Any

from em_platform.config import Settings
from em_platform.errors import (
    ConfigError,
    FormatError,
    RecordError,
    SourceRefused,
    SourceUnavailable,
)
from em_platform.formats import Volume
from em_platform.ingest.dvid import Dvid
from em_platform.ingest.dvid_instance import DvidVersion, parse_info
from em_platform.ingest.flyem_entries import entry_of
from em_platform.ingest.flyem_volumes import (
    Crop,
    Whole,
    crop_of,
    extents,
    key_of,
    middle_crop,
    open_dvid,
    whole_of_dvid,
    whole_of_precomputed,
)
from em_platform.ingest.neuprint import NeuprintDataset, ask_neuprint
from em_platform.ingest.source import Described, Progress
from em_platform.ingest.web import Web
from em_platform.model.ingest import Entry, RawItem, RemoteArray
from em_platform.storage.layout import StorageOptions

log = logging.getLogger(__name__)

_MIB = 1 << 20


class Flyem:
    """Crops `z_y_x_dz_dy_dx`; nothing is fetched before the voxels are written.

    Raises
    ------
    ConfigError
        A key that is no crop, or an endpoint that the instance does not have.
    """

    name = "flyem"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.ingest.flyem
        self._transfer = settings.ingest.transfer
        self._web = Web(self.name, self._settings, self._transfer)

    def list(self) -> tuple[str, ...]:
        """The crops that are configured, else one in the middle of the volume."""
        if self._settings.items:
            return self._settings.items
        # Only its size counts here: it chooses the way to read.
        whole = self._whole(((0, 0, 0), self._settings.crop_shape))
        crop = middle_crop(
            whole.low,
            whole.high,
            shape=self._settings.crop_shape,
            block=whole.block_shape,
        )
        return (key_of(crop),)

    def describe(self, key: str) -> Entry:
        """What DVID or the bucket, neuPrint and the publication say of a crop."""
        crop = crop_of(key)
        whole = self._whole(crop)
        if not whole.holds(crop):
            z, y, x = (c + n for c, n in zip(*crop, strict=True))
            raise SourceRefused(
                f"flyem: crop {key} covers {extents(crop[0], (z, y, x))}, but the "
                f"voxels of {whole.name} are {extents(whole.low, whole.high)}; choose "
                "a crop within, in ingest.flyem.items",
                url=whole.url,
            )
        provenance, described = self._neuprint
        entry = entry_of(
            key, whole, crop=crop, voxel_size_nm=self._settings.voxel_size_nm
        )
        return entry.model_copy(
            update={
                "additional": {**entry.additional, **described},
                "snapshot": {**entry.snapshot, "neuprint": provenance or {}},
            }
        )

    def fetch(self, entry: Entry, folder: Path, progress: Progress) -> RawItem:
        """How many blocks there are, and how many are not where that can be asked."""
        array, crop = _array_of(entry)
        if array.format != "precomputed":
            # DVID cannot be asked which blocks it holds (decision 15).
            whole = whole_of_dvid(
                self._dvid, entry.snapshot["info"], way=array.options["via"]
            )
            return RawItem(
                expected_chunks=whole.blocks(crop),
                size_bytes=entry.estimated_bytes or 0,
            )
        from em_platform.formats import count_chunks

        count = count_chunks(
            array.url,
            format="precomputed",
            crop=_inner(array, crop),
            options=self._limits,
        )
        return RawItem(
            expected_chunks=count.expected,
            missing_chunks=count.missing,
            missing=count.missing_names,
            # Of a shard only the crop's chunks are fetched; no index lists their bytes.
            size_bytes=0 if array.options["sharded"] else count.size_bytes or 0,
            digest=count.digest,
        )

    def open(self, entry: Entry, folder: Path) -> Volume:
        """The crop's voxels; each read asks for exactly its region."""
        array, crop = _array_of(entry)
        volume: Volume
        if array.format == "precomputed":
            from em_platform.formats import open_chunked

            volume = open_chunked(
                array.url,
                format="precomputed",
                crop=_inner(array, crop),
                options=self._limits,
            )
        else:
            volume = open_dvid(
                self._dvid,
                entry.snapshot["info"],
                crop=crop,
                way=array.options["via"],
                most_raw_bytes=self._most_raw_bytes,
            )
        # Where a crop lies follows from its key and the voxel size that is believed.
        info = volume.info.model_copy(update={"origin_nm": entry.origin_nm})
        return Described(volume=volume, info=info)

    def _whole(self, crop: Crop) -> Whole:
        """The volume in the way in which a crop of that size is to be read."""
        via = self._settings.via
        if via != "auto":
            return self._whole_of(via)
        whole = self._whole_of("raw")
        if whole.bytes_of(crop) > self._most_raw_bytes:
            bulk = self._whole_of("precomputed")
            # The bucket may hold grey voxels where DVID's instance has labels.
            if bulk.dtype == whole.dtype:
                return bulk
        return whole

    def _whole_of(self, way: str) -> Whole:
        if way == "precomputed":
            return self._precomputed
        if way == "raw" and self._is_proxied:
            if self._settings.via == "raw":
                raise ConfigError(
                    f"flyem: {self._dvid.node_url} passes on the blocks of another "
                    "store, expected one that has boxes of voxels; set "
                    "ingest.flyem.via to subvolblocks or precomputed"
                )
            way = "subvolblocks"
        return whole_of_dvid(self._dvid, self._info, way=way, version=self._version)

    @property
    def _is_proxied(self) -> bool:
        url = f"{self._dvid.node_url}/info"
        return parse_info(self._info, who=self.name, url=url).proxied

    @cached_property
    def _info(self) -> Any:
        return self._dvid.info()

    @cached_property
    def _version(self) -> DvidVersion | None:
        """The version, where the server lets us see its repository."""
        try:
            return self._dvid.version()
        except (SourceRefused, FormatError) as error:
            # Provenance alone; the voxels do not need it.
            log.warning("flyem: goes on without knowing the version: %s", error)
            return None

    @cached_property
    def _precomputed(self) -> Whole:
        return whole_of_precomputed(
            self._settings.precomputed_url, self._web, self._limits
        )

    @cached_property
    def _neuprint(self) -> tuple[NeuprintDataset | None, dict[str, str | int]]:
        """The dataset as neuPrint knows it, and what of it goes into the record."""
        try:
            found = ask_neuprint(self._settings, self._transfer)
        # Not a refused token: only the user can correct that (decision 15).
        except SourceUnavailable as error:
            log.warning("flyem: goes on without neuPrint: %s", error)
            return None, {"neuprint": f"did not answer: {error}"}
        if found is None:
            return None, {
                "neuprint": "not asked: ingest.flyem.neuprint_token is not set"
            }
        return found, {
            "neuprint": found["dataset"],
            "neuprint_uuid": found["uuid"],
            "neuprint_last_modified": found["last_modified"],
            "neuprint_version": found["version"],
            "regions": len(found["regions"]),
        }

    @property
    def _dvid(self) -> Dvid:
        return Dvid(
            web=self._web,
            url=self._settings.dvid_url,
            uuid=self._settings.uuid,
            name=self._settings.instance,
            throttle=self._settings.throttle,
        )

    @property
    def _limits(self) -> StorageOptions:
        return {
            "requests_at_once": self._settings.requests_at_once,
            "requests_per_second": self._settings.requests_per_second,
            "retries": self._transfer.retries,
            "memory_limit_mb": self._settings.memory_limit_mb,
        }

    @property
    def _most_raw_bytes(self) -> int:
        return self._settings.max_raw_mb * _MIB


def _array_of(entry: Entry) -> tuple[RemoteArray, Crop]:
    """The array that was described, and the crop of it."""
    if entry.array is None:
        raise RecordError(
            f"flyem: the entry of {entry.key} names no array, expected one of DVID or "
            "a precomputed volume; describe the item again"
        )
    return entry.array, crop_of(entry.key)


def _inner(array: RemoteArray, crop: Crop) -> Crop:
    """The crop counted from the array's first voxel."""
    z, y, x = (
        c - first
        for c, first in zip(crop[0], array.options["first_voxel"], strict=True)
    )
    return (z, y, x), crop[1]
