"""The assembler in the how-to page is complete: it is found, and makes a sample."""

import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml

from em_platform.errors import ConfigError
from em_platform.simulation.tilt_series.assemblers import assembler_of
from em_platform.simulation.tilt_series.assemblers.assembler import DensityMap
from em_platform.simulation.tilt_series.plan import Plan


def blocks(page: str, language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
    return str(found)


@pytest.fixture
def installed(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Plan:
    """The page's package as pip leaves it: the module and its metadata."""
    page = (repository / "docs/how-to/add-an-assembler.md").read_text()
    (tmp_path / "lattice.py").write_text(blocks(page, "python"))
    project = tomllib.loads(blocks(page, "toml"))["project"]
    metadata = tmp_path / "lattice_assembler-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1.0\n"
    )
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {at}\n" for name, at in points.items())
        for group, points in project["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "lattice", raising=False)
    return Plan.model_validate(yaml.safe_load(blocks(page, "yaml")))


def test_the_assembler_of_the_page_makes_a_crystal(installed: Plan) -> None:
    grid = DensityMap(
        name="apoferritin", potential_v=np.ones((8, 8, 8), np.float32), voxel_nm=1
    )
    made = assembler_of("lattice")(installed, (grid,), Path())
    found = made.set_up_tiltseries(0)
    places = np.array([each.position_nm for each in found.particles])
    assert places.shape == (64, 3)
    assert np.allclose(places.mean(axis=0), 0)
    assert sorted(set(places[:, 2].tolist())) == [-30, -10, 10, 30]
    again = made.set_up_tiltseries(0).particles[5].rotation
    assert (found.particles[5].rotation == again).all()
    made.reset_temp_dir()
    made.close()


def test_a_wrong_option_of_it_gets_one_sentence(installed: Plan) -> None:
    assembly = installed.assembly.model_copy(update={"options": {"spacing": 3}})
    plan = installed.model_copy(update={"assembly": assembly})
    with pytest.raises(ConfigError, match=r"assembler lattice: assembly\.options\."):
        assembler_of("lattice")(plan, (), Path())
