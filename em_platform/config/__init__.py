"""Settings: defaults < YAML < `.env` < environment < command line."""

from em_platform.config.acquisition import AcquisitionSettings
from em_platform.config.broker import BrokerSettings
from em_platform.config.loader import load_settings
from em_platform.config.settings import (
    DaskSettings,
    Settings,
    StorageSettings,
    WebSettings,
)
from em_platform.config.stitching import (
    MatchSettings,
    QualitySettings,
    RenderSettings,
    SolveSettings,
    StitchingSettings,
    TileSettings,
)

__all__ = [
    "AcquisitionSettings",
    "BrokerSettings",
    "DaskSettings",
    "MatchSettings",
    "QualitySettings",
    "RenderSettings",
    "Settings",
    "SolveSettings",
    "StitchingSettings",
    "StorageSettings",
    "TileSettings",
    "WebSettings",
    "load_settings",
]
