"""The public sources, by name. A new one is a file here and a line in the table."""

import importlib
from collections.abc import Callable

from em_platform.config import Settings, SourceSettings
from em_platform.errors import ConfigError
from em_platform.ingest.source import Source

SOURCES = {
    "ebi": "Ebi",
    "epfl": "Epfl",
    "flyem": "Flyem",
    "idr": "Idr",
    "openorganelle": "OpenOrganelle",
}
"""Name -> class in the module of that name, called with the settings."""


def open_source(name: str, settings: Settings) -> Source:
    """The source of that name.

    Raises
    ------
    ConfigError
        There is none.
    """
    if name not in SOURCES:
        raise ConfigError(
            f"ingest: no source {name!r}, expected one of {', '.join(SOURCES)}; "
            "correct ingest.sources"
        )
    # So that one source does not load what only others need.
    module = importlib.import_module(f"{__name__}.{name}")
    make: Callable[[Settings], Source] = getattr(module, SOURCES[name])
    return make(settings)


def settings_of(name: str, settings: Settings) -> SourceSettings:
    """What is set for a source; a source without a section has the defaults."""
    found = getattr(settings.ingest, name, None)
    return found if isinstance(found, SourceSettings) else SourceSettings()
