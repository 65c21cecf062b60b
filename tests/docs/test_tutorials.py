"""Each tutorial does what it says, step by step."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.page_runner import run_page


@pytest.fixture
def tutorial(
    repository: Path, tmp_path: Path, free_port: Callable[[], int]
) -> Callable[[str], list[str]]:
    """Runs a tutorial in an empty folder, with ports that nobody else has."""
    environment = {
        "EM_BROKER__PORT": str(free_port()),
        "EM_WEB__PORT": str(free_port()),
    }

    def run(name: str) -> list[str]:
        page = repository / "docs/tutorials" / f"{name}.md"
        return run_page(page, tmp_path, environment=environment, timeout_s=200)

    return run


@pytest.mark.timeout(300)
def test_first_montage(tutorial: Callable[[str], list[str]]) -> None:
    outputs = tutorial("first-montage")
    assert any("worst residual" in output for output in outputs)


@pytest.mark.system
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", ["public-volume", "live-session"])
def test_a_longer_tutorial(name: str, tutorial: Callable[[str], list[str]]) -> None:
    assert tutorial(name)


def test_every_tutorial_is_run(repository: Path) -> None:
    pages = {page.stem for page in (repository / "docs/tutorials").glob("*.md")}
    assert pages == {"first-montage", "public-volume", "live-session"}
