import pytest

from em_platform.config import IngestSettings, Settings
from em_platform.config.ingest import Mode
from em_platform.ingest.plan import (
    job_tags,
    lane_of,
    partition_set,
    run_tags,
    waits_for_light,
)
from em_platform.ingest.sources import SOURCES


def settings_in(mode: Mode) -> Settings:
    return Settings(ingest=IngestSettings(mode=mode))


def lanes(mode: Mode) -> dict[str, str]:
    return {source: lane_of(source, settings_in(mode)) for source in SOURCES}


def test_sequential_sources_share_one_lane() -> None:
    assert set(lanes("sequential").values()) == {"all"}


def test_parallel_sources_have_a_lane_each() -> None:
    assert lanes("parallel") == {source: source for source in SOURCES}


def test_staged_heavy_sources_share_a_lane_and_wait_for_the_light_ones() -> None:
    found = lanes("staged")
    assert found["epfl"] == found["openorganelle"] == "heavy"
    assert len({found[source] for source in ("ebi", "flyem", "idr")}) == 3
    waiting = [s for s in SOURCES if waits_for_light(s, settings_in("staged"))]
    assert waiting == ["epfl", "openorganelle"]


def test_in_the_background_one_heavy_source_goes_beside_the_chain_of_others() -> None:
    found = lanes("background")
    others = {found[source] for source in SOURCES if source != "epfl"}
    assert len(others) == 1
    assert found["epfl"] not in others
    order = {
        source: int(run_tags(source, settings_in("background"))["dagster/priority"])
        for source in SOURCES
    }
    assert order["epfl"] > order["flyem"] > order["ebi"] > order["openorganelle"]


def test_every_run_names_its_source_and_what_it_may_use() -> None:
    assert job_tags("flyem", Settings()) == {
        "em/part": "ingest",
        "em/source": "flyem",
        "em/weight": "light",
        "em/memory_mb": "1536",
        "em/cpus": "0.25",
    }


@pytest.mark.parametrize(
    ("source", "name"), [("ebi", "ebi_entries"), ("of_tomorrow", "of_tomorrow_items")]
)
def test_a_new_source_has_a_set_of_partitions_without_being_named(
    source: str, name: str
) -> None:
    assert partition_set(source) == name
