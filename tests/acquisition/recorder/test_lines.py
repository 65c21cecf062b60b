"""The lines of each acquisition survive a kill; only the newest are kept."""

import os
from pathlib import Path

from em_platform.acquisition.recorder.lines import Lines


def test_a_line_added_to_an_old_acquisition_does_not_make_it_new(
    tmp_path: Path,
) -> None:
    lines = Lines(tmp_path, kept=2)
    lines.note("m-1", "raw", 1)
    lines.note("m-2", "raw", 2)
    lines.note("m-2", "forgiven")
    lines.note("m-1", "forgiven")
    # As of one tick of the file system's clock.
    for name in ("m-1", "m-2"):
        os.utime(tmp_path / f"{name}.jsonl", ns=(10**18, 10**18))
    lines.note("m-3", "raw", 3)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["m-2", "m-3"]
    lines.close()
    again = Lines(tmp_path, kept=2)
    assert again.acquisitions() == ["m-2", "m-3"]
    assert list(again.read("m-2")) == [["raw", 2], ["forgiven"]]
    again.note("m-4", "raw", 4)
    again.note("m-4", "raw", 5)
    again.close()
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["m-3", "m-4"]


def test_a_line_that_was_cut_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a_b-1.jsonl").write_text('["raw",1]\n["par')
    lines = Lines(tmp_path, kept=2)
    lines.note("a_b-1", "part", 2)
    lines.close()
    assert list(lines.read("a_b-1")) == [["raw", 1], ["part", 2]]
