"""No asset and no ingest writes where others have their data."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from em_platform.definitions import defs


@pytest.fixture(params=["a folder with other files", "a bucket with other objects"])
def foreign_root(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], dict[str, str]]]:
    """`storage.root` where others have their data; gives the digests of all of it."""
    if request.param.startswith("a folder"):
        folder = tmp_path / "of others"
        (folder / "montages").mkdir(parents=True)
        (folder / "montages/notes.txt").write_text("three weeks of work")
        monkeypatch.setenv("EM_STORAGE__ROOT", str(folder))
        yield lambda: {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file()
        }
        return
    import fsspec

    bucket = request.getfixturevalue("bucket")
    filesystem = fsspec.filesystem("s3", use_listings_cache=False, **bucket)
    filesystem.pipe_file("bucket/of-others/montages/notes.txt", b"three weeks of work")
    monkeypatch.setenv("EM_STORAGE__ROOT", "s3://bucket/of-others")
    endpoint = bucket["client_kwargs"]["endpoint_url"]
    monkeypatch.setenv("EM_STORAGE__ENDPOINT_URL", endpoint)
    monkeypatch.setenv("EM_STORAGE__ACCESS_KEY", bucket["key"])
    monkeypatch.setenv("EM_STORAGE__SECRET_KEY", bucket["secret"])
    yield lambda: {
        name: filesystem.cat_file(name).hex()
        for name in filesystem.find("bucket/of-others")
    }


# Without keys: checks that belong to another asset.
MADE = [
    each
    for each in defs.resolve_asset_graph().assets_defs
    if each.is_materializable and each.keys
]
FOLDERS = {"cryoem", "simulations"}
"""Resources whose assets write into folders of their own, guarded in their rooms."""

WRITERS = sorted(
    (each for each in MADE if "storage" in each.required_resource_keys),
    key=lambda each: sorted(key.to_user_string() for key in each.keys),
)


READERS = {"uploaded_tiles", "acquisition_review"}
"""Assets that only look at what the store holds."""


def test_every_asset_that_is_made_uses_the_store() -> None:
    elsewhere = [each for each in MADE if FOLDERS & each.required_resource_keys]
    assert {id(each) for each in (*WRITERS, *elsewhere)} == {id(each) for each in MADE}


@pytest.mark.usefixtures("home")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize(
    "asset", WRITERS, ids=lambda each: min(key.to_user_string() for key in each.keys)
)
def test_no_asset_writes_where_others_have_their_data(
    asset: dg.AssetsDefinition, foreign_root: Callable[[], dict[str, str]]
) -> None:
    before = foreign_root()
    name = min(asset.keys).to_user_string()
    is_lens = name == "lens_correction"
    config = {"ops": {name: {"config": {"acquisition_id": "grid-1"}}}}
    key = "T1_3000" if is_lens else "grid-1"
    with dg.DagsterInstance.ephemeral() as instance:
        partitions = asset.partitions_def
        if isinstance(partitions, dg.DynamicPartitionsDefinition):
            instance.add_dynamic_partitions(str(partitions.name), [key])
        done = dg.materialize(
            [asset],
            partition_key=key if partitions else None,
            instance=instance,
            run_config=config if is_lens else None,
            raise_on_error=False,
        )
    assert not done.success
    if name not in READERS:
        failures = [e.step_failure_data for e in done.all_events if e.is_step_failure]
        sentences = " ".join(str(each.user_failure_data) for each in failures if each)
        assert "holds what em-platform did not make" in sentences
    assert foreign_root() == before


@pytest.mark.usefixtures("home")
def test_no_ingest_writes_where_others_have_their_data(
    foreign_root: Callable[[], dict[str, str]],
) -> None:
    from em_platform.config import load_settings
    from em_platform.ingest.worker import ingest_source

    before = foreign_root()
    (outcome,) = ingest_source(
        "epfl", ("volumedata",), settings=load_settings(), report=lambda _: None
    )
    assert "holds what em-platform did not make" in outcome.sentence
    assert foreign_root() == before
