"""What is known of a crop of FlyEM: from its volume, and from its publication."""

from dataclasses import dataclass

from em_platform.ingest.flyem_volumes import Crop, Whole, extents
from em_platform.model.ingest import Entry, RemoteArray

Lengths = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedDataset:
    """What no API states of a dataset; `uuids` and `bucket` identify it."""

    title: str
    page: str
    organism: str
    sample: str
    license: str
    citation: str
    doi: str
    voxel_size_nm: tuple[float, float, float]
    uuids: tuple[str, ...]
    bucket: str


HEMIBRAIN = PublishedDataset(
    title="FlyEM hemibrain, adult fly brain by FIB-SEM",
    page="https://www.janelia.org/project-team/flyem/hemibrain",
    organism="Drosophila melanogaster",
    sample="central brain of an adult female, most of the right half",
    license="CC BY 4.0",
    citation=(
        "Scheffer LK, Xu CS, Januszewski M, et al. A connectome and analysis of the "
        "adult Drosophila central brain. eLife 9:e57443 (2020)"
    ),
    doi="10.7554/eLife.57443",
    voxel_size_nm=(8.0, 8.0, 8.0),
    uuids=("a89eb3af216a46cdba81204d8f954786",),
    bucket="neuroglancer-janelia-flyem-hemibrain",
)
KNOWN = (HEMIBRAIN,)


def known_of(url: str) -> PublishedDataset | None:
    """The dataset to which the address of a volume belongs."""
    uuid = url.rpartition("/node/")[2].partition("/")[0] if "/node/" in url else ""
    for known in KNOWN:
        # DVID takes the first letters of a UUID for the whole.
        named = len(uuid) >= 4 and any(each.startswith(uuid) for each in known.uuids)
        if named or f"/{known.bucket}/" in url:
            return known
    return None


def entry_of(
    key: str, whole: Whole, *, crop: Crop, voxel_size_nm: Lengths | None
) -> Entry:
    """The entry of a crop; `voxel_size_nm` overrides what the volume states."""
    known = known_of(whole.url)
    voxel = voxel_size_nm or whole.voxel_size_nm
    if voxel is None and known is not None:
        voxel = known.voxel_size_nm
    stated = (
        {}
        if known is None
        else {
            "organism": known.organism,
            "sample": known.sample,
            "license": known.license,
            "citation": known.citation,
            "doi": known.doi,
        }
    )
    title = known.title if known else "FlyEM volume"
    sizes = " × ".join(str(n) for n in crop[1])
    corner = "z {}, y {}, x {}".format(*crop[0])
    return Entry(
        source="flyem",
        key=key,
        source_id=f"{whole.url.partition('://')[2].partition('/')[2]}/{key}",
        title=f"{title}: {whole.name}, {sizes} voxels at {corner}",
        url=known.page if known else whole.url,
        description=(
            f"{title}: {sizes} voxels (z, y, x) of {whole.name}, the first at {corner}"
        ),
        modality="FIB-SEM",
        content="labels" if whole.labels else "grey",
        shape=crop[1],
        dtype=whole.dtype,
        voxel_size_nm=voxel,
        origin_nm=_origin(crop, voxel),
        aliases=("crop_z{}_y{}_x{}".format(*crop[0]),),
        array=RemoteArray(
            url=whole.url,
            format="precomputed" if whole.way == "precomputed" else "dvid",
            crop=crop,
            # As JSON reads it again: it goes into the fingerprint of the voxels.
            options={
                "via": whole.way,
                "first_voxel": [*whole.low],
                "sharded": whole.sharded,
                **_change_of(whole),
            },
        ),
        estimated_bytes=whole.estimate(crop),
        additional={
            "via": whole.way,
            "dataset_bounds": extents(whole.low, whole.high),
            **_version_of(whole),
        },
        snapshot=whole.snapshot,
        **stated,
    )


def _change_of(whole: Whole) -> dict[str, str]:
    """A version that is not locked names its last change: then its voxels are new."""
    version = whole.version
    return {} if version is None or version.locked else {"changed": version.changed}


def _version_of(whole: Whole) -> dict[str, str | bool]:
    if whole.version is None:
        return {}
    return {
        "dvid_uuid": whole.version.uuid,
        "dvid_repository": whole.version.alias,
        "dvid_locked": whole.version.locked,
    }


def _origin(crop: Crop, voxel: Lengths | None) -> Lengths:
    if voxel is None:
        return (0.0, 0.0, 0.0)
    z, y, x = (c * edge for c, edge in zip(crop[0], voxel, strict=True))
    return z, y, x
