"""The rule in the how-to page needs two files of code: a copy of the package has it."""

import shutil
from pathlib import Path

from tests.docs.page_runner import blocks_of, run_page


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, (path.name, old)
    path.write_text(text.replace(old, new))


def test_a_rule_is_a_setting_and_a_function(repository: Path, tmp_path: Path) -> None:
    page = repository / "docs/how-to/add-a-qc-rule.md"
    setting, rule, table, *_ = (block.text for block in blocks_of(page))
    package = tmp_path / "em_platform"
    shutil.copytree(
        repository / "em_platform",
        package,
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    last = "    max_centroid_shift_nm: float ="
    replaced(package / "config/stitching.py", last, f"{setting}{last}")
    rules = package / "stitching/tile_rules.py"
    before = "# Rules on one statistic alone"
    replaced(rules, before, f"{rule}\n\n{before}")
    one_line = next(
        line for line in rules.read_text().splitlines() if line.startswith("PLAIN_RULES")
    )
    replaced(rules, f"{one_line}\n", table)
    run_page(page, tmp_path, environment={"PYTHONPATH": str(tmp_path)})
