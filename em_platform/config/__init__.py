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
from em_platform.config.stitching import StitchingSettings

__all__ = [
    "AcquisitionSettings",
    "BrokerSettings",
    "DaskSettings",
    "Settings",
    "StitchingSettings",
    "StorageSettings",
    "WebSettings",
    "load_settings",
]
