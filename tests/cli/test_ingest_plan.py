"""What `em-platform ingest --dry-run` prints of items that cannot be fetched."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from em_platform.cli.ingest import command


def test_sentences_stand_whole_below_the_table_and_hide_no_later_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """round3 1.2.7: at 80 columns they had a cell of 28 letters, ten lines each.

    Nothing is asked of the sources: their own lists of names refuse these.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    items = ("epfl/nosuch", "epfl/neither", "idr/x")
    arguments = [part for item in items for part in ("--item", item)]
    done = CliRunner().invoke(command, ["--dry-run", *arguments])
    assert done.exit_code == 1, done.output
    table, _, below = done.output.rpartition("┘")
    assert all(item in table and f"\n{item}: " in below for item in items)
    assert "expected" not in table
    # round3 1.2.10: after `--item` the settings alone were named.
    assert below.count("correct the item (--item, ingest.") == 3
    assert max(map(len, table.splitlines())) <= 80
