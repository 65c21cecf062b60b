"""A volume that was damaged by hand, and an item that another process is at."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from em_platform.catalog.record_files import mark, read_record
from em_platform.cli import main
from em_platform.config import Settings, load_settings
from em_platform.ingest.modes import ItemOutcome
from em_platform.ingest.worker import ingest_source
from em_platform.model.dataset import Status
from em_platform.standins.world import World
from em_platform.storage import layout, store_of
from em_platform.storage.lease import one_writer
from tests.ome_zarr.array_volume import digest

SOURCE, KEY = "epfl", "volumedata"


@pytest.fixture
def settings(world: World, home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)
    return load_settings()


@pytest.fixture
def ingest(settings: Settings) -> Callable[[], ItemOutcome]:
    def ingest() -> ItemOutcome:
        (outcome,) = ingest_source(
            SOURCE, (KEY,), settings=settings, report=lambda _: None
        )
        return outcome

    return ingest


def image_of(home: Path) -> Path:
    return home / "data" / layout.volume(SOURCE, KEY)


def validate_deep(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["catalog", "validate", "--deep", "--json"])
    given = json.loads(capsys.readouterr().out)
    return int(ended.value.code or 0), " ".join(given[0]["errors"])


@pytest.mark.parametrize("damage", ["lost", "changed", "all of the metadata"])
def test_a_damaged_volume_is_found_by_the_next_run_and_made_again(
    ingest: Callable[[], ItemOutcome],
    home: Path,
    damage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ingest().status == "complete"
    image = image_of(home)
    before = digest(image)
    assert validate_deep(capsys) == (0, "")
    shard = next(path for path in sorted(image.glob("0/c/**/*")) if path.is_file())
    if damage == "lost":
        shard.unlink()
    elif damage == "changed":
        shard.write_bytes(bytes(shard.stat().st_size))
    else:
        (image / "zarr.json").unlink()
    status, errors = validate_deep(capsys)
    assert status == 1
    assert "not as they were written" in errors or "is not there" in errors
    again = ingest()
    assert (again.status, again.was_there) == ("complete", False)
    assert digest(image) == before
    assert validate_deep(capsys) == (0, "")
    assert ingest().was_there


def test_an_item_that_another_process_is_at_is_left_to_it(
    ingest: Callable[[], ItemOutcome], settings: Settings
) -> None:
    store = store_of(settings)
    mark(store, SOURCE, KEY, Status.PROCESSING, step="raw")
    name = layout.record(SOURCE, KEY)
    before = store.read_bytes(name)
    place = store.url(layout.item_folder(SOURCE, KEY))
    with one_writer(place, work="an ingest by another"):
        outcome = ingest()
    assert outcome.status == "failed"
    assert "is being written by an ingest by another (process " in outcome.sentence
    assert store.read_bytes(name) == before  # it is not called failed
    assert ingest().status == "complete"
    record = read_record(store, name)
    assert record is not None and record.status is Status.COMPLETE


def test_files_of_others_in_the_raw_folder_stay(
    ingest: Callable[[], ItemOutcome], home: Path, settings: Settings
) -> None:
    folder = settings.raw_folder / SOURCE / KEY
    folder.mkdir(parents=True)
    own = folder / "volumedata.tif"
    own.write_bytes(b"my own copy, with my notes")
    outcome = ingest()
    assert "is there and was not fetched by em-platform" in outcome.sentence
    assert own.read_bytes() == b"my own copy, with my notes"


def test_only_what_was_fetched_is_deleted_after_the_volume_is_made(
    ingest: Callable[[], ItemOutcome],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EM_INGEST__TRANSFER__KEEP_RAW", "false")
    folder = settings.raw_folder / SOURCE / KEY
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    (outcome,) = ingest_source(
        SOURCE, (KEY,), settings=load_settings(), report=lambda _: None
    )
    assert outcome.status == "complete"
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
