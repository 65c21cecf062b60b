"""The asset in the how-to page is complete: it runs in Dagster and its check judges."""

import importlib
import re
import sys
from pathlib import Path

import dagster as dg
import pytest

from em_platform import stitching
from em_platform.definitions import defs
from em_platform.model import TileStats
from em_platform.partitions import montages
from em_platform.storage import layout
from em_platform.storage.store import Store


def tile(tile_id: str, mean: float) -> TileStats:
    return TileStats(
        tile_id=tile_id,
        focus=0.4,
        mean=mean,
        std=30.0,
        minimum=1,
        maximum=250,
        saturated_fraction=0.0,
        histogram=(0,) * 256,
    )


@pytest.mark.parametrize(
    ("darkest", "is_even"), [(95.0, True), (60.0, False)], ids=["even", "uneven"]
)
def test_the_asset_of_the_page_runs_and_its_check_judges(
    repository: Path,
    tmp_path: Path,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    darkest: float,
    is_even: bool,
) -> None:
    page = (repository / "docs/how-to/add-an-asset.md").read_text()
    library, asset = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert max(map(len, (library + asset).splitlines())) <= 88
    (tmp_path / "illumination.py").write_text(library)
    (tmp_path / "asset_of_the_page.py").write_text(asset)
    monkeypatch.setattr(stitching, "__path__", [*stitching.__path__, str(tmp_path)])
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("em_platform.stitching.illumination", "asset_of_the_page"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    found = importlib.import_module("asset_of_the_page").tile_illumination
    tiles = (tile("a", 100.0), tile("b", 104.0), tile("c", darkest))
    store.write(layout.tile_statistics("grid-1"), tiles, tuple[TileStats, ...])
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(montages.name), ["grid-1"])
        result = dg.materialize(
            [found],
            instance=instance,
            partition_key="grid-1",
            resources=defs.resources,
        )
    assert result.success
    [judged] = result.get_asset_check_evaluations()
    assert (judged.check_name, judged.passed) == ("illumination_is_even", is_even)
    [made] = result.asset_materializations_for_node("tile_illumination")
    assert made.metadata["darkest"].value == pytest.approx(darkest / 100.0)
