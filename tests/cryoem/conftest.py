"""Folders that messages may name."""

from pathlib import Path

import pytest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that messages may name, with a link that leads out of it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/a.mrc").touch()
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "file.mrc").symlink_to(tmp_path / "outside/a.mrc")
    return folder
