"""What the tests of the command line share."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _settings_stay_in_the_test() -> Iterator[None]:
    """Commands write `--config`, `--profile` and `--set` into the environment."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
