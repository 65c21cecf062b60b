"""Settings: defaults < profile < YAML < `.env` < environment < command line."""

from em_platform.config.acquisition import (
    AcquisitionSettings,
    CoordinatorSettings,
    MontageFitSettings,
    PipelineSettings,
    QcSettings,
    RoutineSettings,
)
from em_platform.config.cryoem import CryoemSettings, RabbitmqSettings
from em_platform.config.fields import FIELDS, SettingField, sections
from em_platform.config.ingest import (
    CatalogSettings,
    EbiSettings,
    EpflSettings,
    FlyemSettings,
    IdrSettings,
    IngestSettings,
    OpenOrganelleSettings,
    OutputSettings,
    SourceSettings,
    TransferSettings,
    VolumeQualitySettings,
)
from em_platform.config.layers import export
from em_platform.config.loader import LayeredSettings, load_layers, load_settings
from em_platform.config.services import (
    AlohaSettings,
    BrokerSettings,
    BufferSettings,
    LoggingSettings,
    OperatorSettings,
    TemdbSettings,
)
from em_platform.config.settings import (
    DaskSettings,
    Settings,
    StorageSettings,
    WebSettings,
)
from em_platform.config.simulation import SimulationSettings
from em_platform.config.stitching import (
    MatchSettings,
    QualitySettings,
    RenderSettings,
    SolveSettings,
    StitchingSettings,
    TileSettings,
)

__all__ = [
    "FIELDS",
    "AcquisitionSettings",
    "AlohaSettings",
    "BrokerSettings",
    "BufferSettings",
    "CatalogSettings",
    "CoordinatorSettings",
    "CryoemSettings",
    "DaskSettings",
    "EbiSettings",
    "EpflSettings",
    "FlyemSettings",
    "IdrSettings",
    "IngestSettings",
    "LayeredSettings",
    "LoggingSettings",
    "MatchSettings",
    "MontageFitSettings",
    "OpenOrganelleSettings",
    "OperatorSettings",
    "OutputSettings",
    "PipelineSettings",
    "QcSettings",
    "QualitySettings",
    "RabbitmqSettings",
    "RenderSettings",
    "RoutineSettings",
    "SettingField",
    "Settings",
    "SimulationSettings",
    "SolveSettings",
    "SourceSettings",
    "StitchingSettings",
    "StorageSettings",
    "TemdbSettings",
    "TileSettings",
    "TransferSettings",
    "VolumeQualitySettings",
    "WebSettings",
    "export",
    "load_layers",
    "load_settings",
    "sections",
]
