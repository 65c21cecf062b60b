"""The picture shows the machine that runs."""

import shutil
from pathlib import Path

import pytest

from em_platform.acquisition.coordinator import draw
from em_platform.acquisition.coordinator.drawing import mermaid, picture
from em_platform.acquisition.coordinator.requirements import STATES
from em_platform.errors import ConfigError, ToolMissing


def test_every_state_of_the_reference_is_in_it() -> None:
    nodes, _ = picture()
    inner = {node.name: {each.name for each in node.inner} for node in nodes}
    assert set(inner) == {"Preview", "Acquisition", "Shutdown"}
    assert inner["Preview"] == {
        *STATES.values(), "UpdateImage", "ChangeAperture", "LensCorrection",
    }  # fmt: skip
    assert inner["Acquisition"] > {
        *STATES.values(), "ChangeAperture", "LensCorrection", "TiltStage", "Montage",
        "Paused", "Stopped", "Failure",
    }  # fmt: skip


def test_the_way_of_a_tile_is_in_it() -> None:
    _, arrows = picture()
    ways = {("_".join(a.source), "_".join(a.dest)): a.labels for a in arrows}
    move, capture = "Acquisition_Montage_MoveStage", "Acquisition_Montage_CaptureTile"
    assert ways[f"{move}_Request", capture] == ("success",)
    assert "success [has_more]" in ways[f"{capture}_Request", move]
    assert ways["Preview", "Acquisition"] == ("start",)
    assert ways["Acquisition", "Acquisition_Stopped"] == ("halt",)


def test_text_is_drawn_without_any_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    draw(tmp_path / "machine.dot")
    draw(tmp_path / "machine.mmd")
    written = (tmp_path / "machine.dot").read_text()
    assert written.count("{") == written.count("}")
    assert 'label="Montage"' in written
    assert (tmp_path / "machine.mmd").read_text() == mermaid(*picture())
    with pytest.raises(ToolMissing, match=r"install graphviz, or ask for a \.dot"):
        draw(tmp_path / "machine.svg")


def test_a_picture_is_drawn_by_graphviz(tmp_path: Path) -> None:
    if shutil.which("dot") is None:
        pytest.skip("graphviz is not installed")
    draw(tmp_path / "machine.svg")
    assert "MoveStage" in (tmp_path / "machine.svg").read_text()


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.dot, \.mmd, \.svg or \.png"):
        draw(tmp_path / "machine.pdf")
