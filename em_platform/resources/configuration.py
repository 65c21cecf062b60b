"""The settings, as assets and sensors see them."""

from typing import Any

import dagster as dg
from pydantic import Field

from em_platform.config import Settings, load_settings


class Configuration(dg.ConfigurableResource[Any]):
    """The platform's settings, with a run's own on top.

    `overrides` is the last layer: `stitching.match.search_px` -> `200`.
    """

    overrides: dict[str, str] = Field(default_factory=dict)

    def settings(self) -> Settings:
        """All layers merged; ConfigError names the layer of a wrong value."""
        return load_settings(overrides=self.overrides)
