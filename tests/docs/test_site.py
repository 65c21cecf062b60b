"""The site is built from all pages, its links lead somewhere, and it stays at home."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FETCHED = re.compile(
    r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"(https?:)?//[^\"]*\""
    r"|url\(\s*['\"]?(?:https?:)?//|@import"
)
"""What a browser fetches by itself when it opens a page."""


@pytest.fixture(scope="module")
def site(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict"]
    built = subprocess.run(
        [*command, "--site-dir", str(folder)],
        cwd=repository,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_is_on_the_site(site: Path, repository: Path) -> None:
    pages = {
        path.relative_to(repository / "docs").with_suffix(".html")
        for path in (repository / "docs").rglob("*.md")
    }
    built = {path.relative_to(site) for path in site.rglob("*.html")}
    assert len(pages) > 50
    assert not pages - built
    assert Path("about.html") in built


def test_a_page_fetches_nothing_from_elsewhere(site: Path) -> None:
    found = {
        f"{path.relative_to(site)}: {match[0][:100]}"
        for kind in ("html", "css")
        for path in site.rglob(f"*.{kind}")
        for match in FETCHED.finditer(path.read_text())
    }
    assert not found


def test_links_within_the_site_lead_somewhere(site: Path) -> None:
    lost = set()
    for page in site.rglob("*.html"):
        if page.name == "404.html":
            continue  # its links begin at the root of a server
        for target in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text()):
            if ":" not in target and not (page.parent / target).exists():
                lost.add(f"{page.relative_to(site)}: {target}")
    assert not lost
