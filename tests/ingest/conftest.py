"""A file server, another one, and a fetch from them into a folder."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from em_platform.config import Settings, SourceSettings
from em_platform.ingest.fetch import fetch_files
from em_platform.ingest.rate_limit import Waits
from em_platform.ingest.source import Silent
from em_platform.ingest.web import Web
from em_platform.model.ingest import RawItem, RemoteFile
from tests.ingest.remote import PART, Remote, entry_of


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Remote]:
    made = Remote(tmp_path / "remote")
    with made.server:
        yield made


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Remote]:
    made = Remote(tmp_path / "other")
    with made.server:
        yield made


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[..., RawItem]:
    def fetch(*files: RemoteFile, progress: Any = None, **transfer: Any) -> RawItem:
        given = {"part_mb": PART / 1e6, "reserve_gb": 0.0, "retries": 2} | transfer
        settings = Settings.model_validate({"ingest": {"transfer": given}})
        web = Web(
            "ebi",
            SourceSettings(requests_at_once=4, requests_per_second=1e6),
            settings.ingest.transfer,
            waits=Waits(sleep=lambda _: None),
        )
        return fetch_files(
            entry_of(*files),
            tmp_path / "raw/11759",
            web=web,
            settings=settings,
            progress=progress or Silent(),
        )

    return fetch


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "raw/11759"
