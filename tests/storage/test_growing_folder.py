"""A folder that takes long to make: whole, resumed, or refused."""

from pathlib import Path

import pytest

from em_platform.errors import OutputBusy, OutputRefused
from em_platform.storage.growing_folder import growing_folder, is_done
from em_platform.storage.lease import one_writer

KIND = "test folder"


def fill(path: Path, text: str = "one", *, of: str = "a") -> None:
    with growing_folder(path, KIND, of=of) as own:
        assert not path.exists()
        (own / "file.txt").write_text(text)


def test_it_stands_when_whole_and_says_of_what_it_was_made(
    tmp_path: Path,
) -> None:
    path = tmp_path / "folder"
    assert not is_done(path, KIND, of="a")
    fill(path)
    assert is_done(path, KIND, of="a")
    assert not is_done(path, KIND, of="b")
    with pytest.raises(OutputRefused, match="other settings"):
        fill(path, of="b")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_ctrl_c_leaves_it_to_be_resumed_and_an_error_does_not(
    tmp_path: Path, stop: type[BaseException]
) -> None:
    path = tmp_path / "folder"
    with pytest.raises(stop), growing_folder(path, KIND, of="a") as own:
        (own / "half.txt").write_text("1")
        raise stop
    assert not path.exists()
    with growing_folder(path, KIND, of="a") as own:
        assert (own / "half.txt").exists() == (stop is KeyboardInterrupt)


def test_what_was_begun_of_another_making_is_not_resumed(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with pytest.raises(KeyboardInterrupt), growing_folder(path, KIND, of="a") as own:
        (own / "half.txt").write_text("1")
        raise KeyboardInterrupt
    with growing_folder(path, KIND, of="b") as own:
        assert not (own / "half.txt").exists()


def test_a_hidden_folder_of_others_is_not_taken_for_ours(tmp_path: Path) -> None:
    foreign = tmp_path / ".folder.partial"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("three weeks of work")
    with pytest.raises(OutputRefused, match="move it away"):
        fill(tmp_path / "folder")
    assert (foreign / "notes.txt").read_text() == "three weeks of work"


def test_two_writers_of_one_folder_are_one(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with one_writer(str(path), work="another stack"), pytest.raises(OutputBusy):
        fill(path)
