"""Each how-to page does what it says, as far as one machine can."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.page_runner import run_page


@pytest.fixture
def environment(
    tmp_path: Path, free_port: Callable[[], int], repository: Path
) -> dict[str, str]:
    """Ports that nobody else has, and no home but that of the page."""
    return {
        "EM_BROKER__PORT": str(free_port()),
        "EM_WEB__PORT": str(free_port()),
        "PYTHONPATH": str(repository),
    }


def test_use_the_command_line(
    repository: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    run_page(
        repository / "docs/how-to/use-the-command-line.md",
        tmp_path,
        environment=environment,
    )


@pytest.mark.parametrize("page", ["convert-and-export", "add-a-format"])
def test_formats(
    repository: Path, tmp_path: Path, environment: dict[str, str], page: str
) -> None:
    run_page(
        repository / f"docs/how-to/{page}.md", tmp_path, environment=environment
    )
