"""What is known of a crop of FlyEM: from its volume, and from its publication."""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict

import urllib3

from em_platform.config import FlyemSettings, TransferSettings
from em_platform.errors import ConfigError, FormatError, SourceRefused
from em_platform.ingest.flyem_volumes import Crop, Whole, extents
from em_platform.ingest.http_answers import whole_body
from em_platform.ingest.web import Web
from em_platform.model.ingest import Entry, RemoteArray

_WHO = "flyem"
# What reading an answer of another shape raises: it is then no such dataset.
_ODD_ANSWERS = (KeyError, TypeError, ValueError, IndexError, AttributeError)


class NeuprintDataset(TypedDict):
    """What neuPrint knows of a dataset; empty where it does not say."""

    dataset: str
    uuid: str
    last_modified: str
    info: str
    version: str
    """Of the service."""
    regions: list[str]
    primary_regions: list[str]


def ask_neuprint(
    settings: FlyemSettings, transfer: TransferSettings
) -> NeuprintDataset | None:
    """The dataset as neuPrint describes it; None without a token.

    Raises
    ------
    SourceRefused
        The token is not, or no more, good.
    SourceUnavailable
        neuPrint is down.
    ConfigError
        The address is not https, the token is half a JSON document, or there is no
        such dataset.
    FormatError
        It answers something else.
    """
    token = _plain(settings.neuprint_token.get_secret_value())
    if not token:
        return None
    web = Web(
        _WHO,
        settings,
        transfer,
        token=token,
        verify=_verify(settings.neuprint_certificate),
    )
    try:
        return _described(web, settings, token)
    except _ODD_ANSWERS as error:
        raise FormatError(
            f"{_WHO}: {settings.neuprint_url} tells of {settings.neuprint_dataset} in "
            f"words that are not neuPrint's ({error!r}); check "
            "ingest.flyem.neuprint_url",
            url=settings.neuprint_url,
        ) from error
    finally:
        web.close()


def _described(web: Web, settings: FlyemSettings, token: str) -> NeuprintDataset:
    from neuprint import fetch_all_rois, fetch_primary_rois

    client = _client(web, settings, token)
    known = client.fetch_datasets()[client.dataset]
    return {
        "dataset": client.dataset,
        "uuid": str(known["uuid"]),
        "last_modified": str(known.get("last-mod", "")),
        "info": str(known.get("info") or ""),
        "version": _version(client),
        "regions": [str(name) for name in fetch_all_rois(client=client)],
        "primary_regions": [str(name) for name in fetch_primary_rois(client=client)],
    }


def _client(web: Web, settings: FlyemSettings, token: str) -> Any:
    """neuprint-python's client with our transport."""
    from neuprint import Client  # takes two seconds

    class Polite(Client):  # type: ignore[misc]
        # Private, but the library sets no timeout and no retries (decision 15).
        def _fetch(self, url: str, json: Any = None, ispost: bool = False) -> _Answer:
            method = "POST" if ispost else "GET"
            take = partial(whole_body, _WHO)
            return _Answer(web.exchange(url, take, method=method, body=json))

    # The library remembers the datasets of a server until its process ends.
    Client.DATASETS_CACHE.clear()
    try:
        return Polite(settings.neuprint_url, settings.neuprint_dataset, token)
    except RuntimeError as error:
        words = " ".join(str(error).split())
        raise ConfigError(
            f"{_WHO}: neuPrint at {settings.neuprint_url} cannot be asked ({words}); "
            "correct ingest.flyem.neuprint_url or ingest.flyem.neuprint_dataset"
        ) from error


@dataclass(frozen=True, slots=True)
class _Answer:
    """What neuprint-python takes of an answer."""

    content: bytes


def _version(client: Any) -> str:
    """The version of the service, which not every service tells."""
    try:
        return str(client.fetch_version())
    # Some services answer 404 here and know their datasets all the same.
    except (SourceRefused, KeyError):
        return ""


def _plain(token: str) -> str:
    """The token itself, which neuPrint's page shows as JSON, `{"token": "..."}`."""
    # A JSON object has a colon, a token by itself has none.
    if ":" not in token:
        return token.strip().strip('"')
    try:
        return str(json.loads(token)["token"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{_WHO}: the neuPrint token is neither a token nor the JSON document "
            "with a token that neuPrint shows; correct ingest.flyem.neuprint_token"
        ) from error


def _verify(certificate: str) -> bool | str:
    """What to check the server's certificate against; `false`: do not check it."""
    if certificate.strip().lower() not in ("false", "no", "0"):
        return certificate or True
    # The user has chosen it; a warning for each request helps no one.
    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    return False


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
