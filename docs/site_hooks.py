"""What the site adds to MkDocs: the pages beside docs/, and the way through all pages."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_TOP = Path(__file__).parent.parent
_BESIDE = {
    "README.md": "about.md",  # MkDocs would make a second index of a README
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
}
"""Pages of the checkout's top folder -> their names on the site, beside index.md."""

_OUTSIDE = ("../benchmarks/README.md", "tests/README.md", "LICENSE")
"""Linked on the disk, not on the site: they are for those who have the checkout."""

_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)]+)\)")
_TITLE = re.compile(r"^# (.+)$", re.M)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Navigation: the sections in the order in which a reader needs them."""
    config.nav = [
        {"Start": ["index.md", "about.md"]},
        {"Tutorials": _pages("tutorials")},
        {"How-to": _pages("how-to")},
        {"Explanations": ["fault-table.md", *_pages("explanations")]},
        {"Reference": [*_pages("reference"), "benchmarks.md"]},
        {"Decisions": _pages("explanations/decisions")},
        {"Project": ["ROADMAP.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand beside docs/."""
    for name, on_site in _BESIDE.items():
        text = (_TOP / name).read_text(encoding="utf-8")
        files.append(File.generated(config, on_site, content=text))
    return files


def on_page_markdown(
    markdown: str, *, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Point links between docs/ and its parent folder to the pages on the site."""

    def on_site(match: re.Match[str]) -> str:
        text, target = match["text"], match["target"]
        if target.startswith(_OUTSIDE):
            return text
        if page.file.src_uri in _BESIDE.values():
            target = target.removeprefix("docs/")
            return f"[{text}]({_BESIDE.get(target, target)})"
        name = target.rpartition("../")[2]
        if target.startswith("../") and name in _BESIDE:
            # The site has it one folder lower than the checkout.
            above = target.removeprefix("../").removesuffix(name)
            return f"[{text}]({above}{_BESIDE[name]})"
        return match[0]

    return _LINK.sub(on_site, markdown)


def _pages(folder: str) -> list[str]:
    """The pages of one folder, by their titles; decisions by their numbers."""
    top = _TOP / "docs"
    found = list((top / folder).glob("*.md"))

    def title(page: Path) -> str:
        match = _TITLE.search(page.read_text(encoding="utf-8"))
        return match[1] if match else page.name

    key = (lambda p: p.name) if folder.endswith("decisions") else title
    return [str(page.relative_to(top)) for page in sorted(found, key=key)]
