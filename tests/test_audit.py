"""Known weaknesses of what is pinned: found, accepted, or not to be asked for."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import audit

# As pip-audit 2.10 writes it.
FOUND = {
    "dependencies": [
        {"name": "good", "version": "1.0", "vulns": []},
        {"name": "unknown", "skip_reason": "not found"},
        {
            "name": "bad",
            "version": "2.0",
            "vulns": [
                {"id": "PYSEC-1", "fix_versions": ["2.1"], "aliases": ["CVE-7"]},
                {"id": "PYSEC-2", "fix_versions": [], "aliases": []},
            ],
        },
    ],
    "fixes": [],
}


def test_each_weakness_is_named_with_its_cure() -> None:
    first, second = audit.judge(FOUND)
    assert "bad 2.0 has PYSEC-1; raise it in constraints.txt to 2.1," in first
    assert "PYSEC-2; raise it in constraints.txt to another," in second


def test_what_is_accepted_by_any_of_its_names_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(audit.ACCEPTED, "CVE-7", "we do not call it")
    [sentence] = audit.judge(FOUND)
    assert "PYSEC-2" in sentence


def test_where_nothing_can_be_asked_it_is_skipped_with_the_reason(
    tmp_path: Path, repository: Path
) -> None:
    nowhere = "http://127.0.0.1:9"
    environment = {"HTTPS_PROXY": nowhere, "HTTP_PROXY": nowhere, "HOME": str(tmp_path)}
    ended = subprocess.run(
        (sys.executable, repository / "tests/audit.py"),
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("audit: skipped, nothing can be asked here (")
    assert "127.0.0.1" in ended.stdout


def test_make_check_asks(repository: Path) -> None:
    makefile = (repository / "Makefile").read_text()
    check = makefile.partition("\ncheck: install\n")[2].partition("\n\n")[0]
    assert "tests/audit.py" in check
