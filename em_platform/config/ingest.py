"""Settings of the public sources, of what is fetched from them, and of its order."""

from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr

from em_platform.model import Model

Mode = Literal["staged", "background", "parallel", "sequential"]
Weight = Literal["light", "heavy"]


def _split(value: Any) -> Any:
    """Text with commas or spaces between values, as the source projects write it."""
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    """One value, or several in any form, as a list of texts."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (str(value),)  # YAML reads an item such as 11759 as a number
    value = _split(value)
    return tuple(map(str, value)) if isinstance(value, list | tuple) else value


def _megabytes(value: Any) -> Any:
    """`10g`, `512m` and `7.5g`, as Docker writes limits, in MiB."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower().removesuffix("b").removesuffix("i")
    # Docker's k, m and g are powers of 1024.
    units = {"k": 1 / 1024, "m": 1, "g": 1024, "t": 1024**2}
    if text[-1:] in units:
        with suppress(ValueError):  # pydantic then says what is wrong with the text
            return round(float(text[:-1]) * units[text[-1]])
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Three = Annotated[tuple[int, int, int], BeforeValidator(_split)]
Megabytes = Annotated[int, BeforeValidator(_megabytes), Field(gt=0)]


class SourceSettings(Model):
    """What is fetched from one source, when, and how gently.

    `items` are the keys that are always wanted; discovery adds what it finds where
    `discover` says so. `voxel_size_nm` (z, y, x) stands above what files and services
    say. `memory_limit_mb` (also as `7.5g`) and `cpus` bound one run of this source;
    `requests_at_once` and `requests_per_second` are what the other side is asked for
    at most. An answer may send us on within its host, to the hosts of this source's
    addresses, and to `redirect_hosts` and names below them.

    A source that is not `enabled` takes no part. Its `schedule` (cron, UTC) is off
    until it is switched on. `weight` chooses its place in the order of the modes.
    """

    enabled: bool = True
    items: Names = ()
    discover: bool = False
    schedule: str = "0 2 * * *"
    weight: Weight = "light"
    memory_limit_mb: Megabytes = 2048
    cpus: float = Field(default=1.0, gt=0)
    requests_at_once: int = Field(default=4, ge=1)
    requests_per_second: float = Field(default=50.0, gt=0)
    voxel_size_nm: tuple[float, float, float] | None = None
    redirect_hosts: Names = ()


class EbiSettings(SourceSettings):
    """EMPIAR of EMBL-EBI: entries by their number.

    `files_urls` are the roots of the archive, the first preferred, the others mirrors;
    `api_url` describes entries.
    """

    items: Names = ("11759",)
    schedule: str = "0 1 * * *"
    memory_limit_mb: Megabytes = 1024
    # Memory and CPU of each source are the limits of macroscope's containers.
    cpus: float = Field(default=0.5, gt=0)
    api_url: str = "https://www.ebi.ac.uk/empiar/api"
    files_urls: Names = ("https://ftp.ebi.ac.uk/empiar/world_availability",)
    redirect_hosts: Names = ("ebi.ac.uk",)


class EpflSettings(SourceSettings):
    """EPFL CVLab: the hippocampus TIFFs by their name; they state no voxel size.

    `files_urls` are the folders of the files, mirrors behind the first.
    """

    items: Names = ("volumedata",)
    schedule: str = "0 5 * * 0"
    weight: Weight = "heavy"
    memory_limit_mb: Megabytes = 10240
    cpus: float = Field(default=4.0, gt=0)
    # By the data set's page at EPFL, as the files state none.
    voxel_size_nm: tuple[float, float, float] | None = (5.0, 5.0, 5.0)
    files_urls: Names = (
        "https://documents.epfl.ch/groups/c/cv/cvlab-unit/www/data/"
        "%20ElectronMicroscopy_Hippocampus",
    )
    redirect_hosts: Names = ("epfl.ch",)


class FlyemSettings(SourceSettings):
    """FlyEM hemibrain: crops `z_y_x_dz_dy_dx` in voxels.

    Without `items` one crop of `crop_shape` (z, y, x) is taken in the middle. `via`
    chooses DVID's endpoint or the precomputed volume; `auto` takes the precomputed one
    for more than `max_raw_mb`. `throttle` asks DVID to serve us after others. neuPrint
    is asked for provenance and regions only where there is a token;
    `neuprint_certificate` is a file of certificates to trust, or `false`.

    `dvid_url`, the version's `uuid` and the `instance` name the grey levels in DVID,
    `precomputed_url` the precomputed volume; `neuprint_url`, `neuprint_dataset` and
    `neuprint_token` belong to neuPrint.
    """

    schedule: str = "0 3 * * *"
    memory_limit_mb: Megabytes = 1536
    cpus: float = Field(default=0.25, gt=0)
    # DVID serves one throttled request at a time; more only wait (decision 15).
    requests_at_once: int = Field(default=2, ge=1)
    # As macroscope's crop: 1 GB of grey levels.
    crop_shape: Three = (1000, 1000, 1000)
    via: Literal["auto", "raw", "subvolblocks", "specificblocks", "precomputed"] = (
        "auto"
    )
    # DVID gives no more than 3 GiB in one answer (`dvid.MOST_RAW_BYTES`).
    max_raw_mb: int = Field(default=3072, gt=0, le=3072)
    throttle: bool = True
    dvid_url: str = "https://hemibrain-dvid.janelia.org"
    uuid: str = "a89eb3af216a46cdba81204d8f954786"
    instance: str = "grayscale"
    precomputed_url: str = (
        "https://storage.googleapis.com/neuroglancer-janelia-flyem-hemibrain/"
        "emdata/clahe_yz/jpeg"
    )
    neuprint_url: str = "https://neuprint.janelia.org"
    neuprint_dataset: str = "hemibrain:v1.2.1"
    neuprint_token: SecretStr = SecretStr("")
    neuprint_certificate: str = ""
    redirect_hosts: Names = ("janelia.org",)


class IdrSettings(SourceSettings):
    """Image Data Resource: images by their number; datasets are discovered.

    `files_urls` are roots of the originals; `ngff_urls` of IDR's OME-Zarr images, used
    where an image is among them. `metadata_urls` are where studies keep their own
    descriptions, with `{study}` for their name, such as
    `https://raw.githubusercontent.com/IDR/{study}/HEAD`; empty: nobody is asked.

    `api_url` is its JSON API; images of `datasets` are found where `discover` is on.
    `raw_folder` is another place for its raw files.
    """

    items: Names = ("9846137",)
    schedule: str = "0 4 * * *"
    memory_limit_mb: Megabytes = 1024
    cpus: float = Field(default=0.25, gt=0)
    datasets: Names = ("10740",)
    api_url: str = "https://idr.openmicroscopy.org"
    files_urls: Names = ("https://ftp.ebi.ac.uk/pub/databases/IDR",)
    ngff_urls: Names = (
        "https://uk1s3.embassy.ebi.ac.uk/idr/zarr",
        "https://livingobjects.ebi.ac.uk/idr/zarr",
    )
    metadata_urls: Names = ()
    raw_folder: str = ""
    redirect_hosts: Names = ("openmicroscopy.org", "ebi.ac.uk")


class OpenOrganelleSettings(SourceSettings):
    """OpenOrganelle: arrays of an anonymous bucket.

    A key is the path with dots, `jrc_mus-nacc-2.recon-2.em.fibsem-int16.s2`. Arrays
    above `max_array_mb` are streamed as they are, skipped, or taken at a smaller level
    (`large_array_mode`: `stream`, `skip`, `downsample`). What the arrays do not say is
    read from `<metadata_url>/<dataset>/manifest.json` where that is set.

    `metadata_url` is the root of the manifests, `bucket_url` the bucket and
    `endpoint_url` a server other than AWS. `downsample` takes the first level that is
    `downsample_factor` times smaller or more.
    """

    items: Names = ("jrc_mus-nacc-2.recon-2.em.fibsem-int16.s2",)
    schedule: str = "0 6 * * 0"
    weight: Weight = "heavy"
    memory_limit_mb: Megabytes = 7680
    cpus: float = Field(default=2.0, gt=0)
    requests_at_once: int = Field(default=32, ge=1)
    requests_per_second: float = Field(default=500.0, gt=0)
    bucket_url: str = "s3://janelia-cosem-datasets"
    endpoint_url: str = ""
    metadata_url: str = ""
    large_array_mode: Literal["stream", "skip", "downsample"] = "stream"
    # 1 TB: memory follows the shard and not the array (decision 14).
    max_array_mb: int = Field(default=1_000_000, gt=0)
    downsample_factor: int = Field(default=2, ge=2)


class TransferSettings(Model):
    """How files are fetched.

    A file comes in parts of `part_mb`, `parts_at_once` of them; a request is tried
    `retries` times more, after `backoff_s` doubled each time and shortened at random.
    `reserve_gb` stay free on the disk. `max_gb_per_item` refuses what is larger.
    Raw files lie in `raw_folder` (empty: `raw` under `home`) and stay there while
    `keep_raw` says so.

    An answer is waited for `timeout_s`. `verify_checksums` compares files with the
    checksums that a source publishes.
    """

    part_mb: float = Field(default=16.0, gt=0)
    parts_at_once: int = Field(default=4, ge=1)
    retries: int = Field(default=4, ge=0)
    backoff_s: float = Field(default=1.0, ge=0)
    timeout_s: float = Field(default=60.0, gt=0)
    reserve_gb: float = Field(default=1.0, ge=0)
    max_gb_per_item: float = Field(default=10_000.0, gt=0)
    raw_folder: str = ""
    keep_raw: bool = True
    verify_checksums: bool = True


class OutputSettings(Model):
    """The OME-Zarr 0.5 that a volume becomes: edges in voxels, at most.

    A thin axis has smaller chunks and shards. `chunk_mb` chooses the edge by size
    instead. `levels` 0 goes on until the volume fits into one chunk.

    Edges are `chunk_px` and `shard_px`; `compression_level` is Zstandard's.
    """

    # As OpenOrganelle and FlyEM have them: 256 KiB of 8 bits.
    chunk_px: int = Field(default=64, ge=8)
    chunk_mb: float | None = Field(default=None, gt=0)
    # 64 chunks a file: a bucket has few objects, a shard 16 MiB of 8 bits.
    shard_px: int = Field(default=256, ge=8)
    compression_level: int = Field(default=1, ge=0, le=22)
    levels: int = Field(default=0, ge=0)


class VolumeQualitySettings(Model):
    """What the checks of a volume allow.

    A volume is blank when its standard deviation is below `min_std`, and has blank
    sections or holes above these fractions. `voxel_tolerance` is relative.

    The fractions are `max_blank_fraction` of the sections and `max_missing_fraction` of
    the voxels.
    """

    min_std: float = Field(default=1.0, ge=0)
    max_blank_fraction: float = Field(default=0.25, ge=0, le=1)
    # Each hole is worth a sentence; it is only a warning.
    max_missing_fraction: float = Field(default=0.0, ge=0, le=1)
    voxel_tolerance: float = Field(default=0.02, ge=0)


class IngestSettings(Model):
    """Public sources into OME-Zarr.

    `mode` is the order of the sources, see the page on ingests; `sources` are those
    that take part. `workers` is how many processes write a volume, `at_once` how many
    sources run beside each other in `parallel`. `memory_limit_gb` is what all sources
    that run at once may have together; 0 asks the machine.

    `consolidate` makes the catalog anew after a call of `em-platform ingest`.
    """

    mode: Mode = "staged"
    sources: Names = ("ebi", "epfl", "flyem", "idr", "openorganelle")
    workers: int = Field(default=2, ge=1)
    at_once: int = Field(default=4, ge=1)
    memory_limit_gb: float = Field(default=0.0, ge=0)
    consolidate: bool = True
    ebi: EbiSettings = EbiSettings()
    epfl: EpflSettings = EpflSettings()
    flyem: FlyemSettings = FlyemSettings()
    idr: IdrSettings = IdrSettings()
    openorganelle: OpenOrganelleSettings = OpenOrganelleSettings()
    transfer: TransferSettings = TransferSettings()
    output: OutputSettings = OutputSettings()
    quality: VolumeQualitySettings = VolumeQualitySettings()


class CatalogSettings(Model):
    """The catalog over all records.

    It is made anew when records have changed: once nothing is under way and none has
    changed for `settle_s`, at the latest after `at_latest_s`; and, as volumes may go
    without a run, at the cron time `schedule`.

    `strict` fails a consolidation that finds an invalid record. With `ci_metadata` a
    record says which CI run made it (variables `CI_*`).

    `reports` are the forms of the validation report; `detect_duplicates` lists records
    of the same voxels. `memory_limit_mb` and `cpus` bound the run that consolidates.
    """

    strict: bool = True
    reports: Annotated[
        tuple[Literal["json", "csv", "html"], ...], BeforeValidator(_listed)
    ] = ("json", "csv", "html")
    detect_duplicates: bool = True
    # On Monday, after the heavy sources of Sunday.
    schedule: str = "0 7 * * 1"
    settle_s: float = Field(default=30.0, ge=0)
    at_latest_s: float = Field(default=600.0, ge=0)
    ci_metadata: bool = False
    memory_limit_mb: Megabytes = 2048
    cpus: float = Field(default=0.5, gt=0)
