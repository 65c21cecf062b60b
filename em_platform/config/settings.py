"""All settings, one section a domain; a unit stands in each name that needs one."""

import ipaddress
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from em_platform.config.acquisition import AcquisitionSettings
from em_platform.config.cryoem import CryoemSettings
from em_platform.config.ingest import CatalogSettings, IngestSettings
from em_platform.config.services import (
    AlertSettings,
    AlohaSettings,
    BrokerSettings,
    LoggingSettings,
    TemdbSettings,
)
from em_platform.config.simulators import TiltSeriesSettings
from em_platform.config.stitching import StitchingSettings
from em_platform.model import Model

ALIASES = {
    "EM_DATA_DIR": ("storage", "root"),
    "EM_DASK_ADDRESS": ("dask", "address"),
    "DASK_SCHEDULER_ADDRESS": ("dask", "address"),
    "PIGEON_HOST": ("broker", "host"),
    "PIGEON_PORT": ("broker", "port"),
    "PIGEON_USERNAME": ("broker", "username"),
    "PIGEON_PASSWORD": ("broker", "password"),
    "LOKI_URL": ("logging", "loki_url"),
    "LOKI_TAGS": ("logging", "loki_tags"),
    "LOKI_USERNAME": ("logging", "loki_username"),
    "LOKI_PASSWORD": ("logging", "loki_password"),
    "EM_LOGS_DIR": ("logging", "folder"),
    "EM_EXECUTION_MODE": ("ingest", "mode"),
    "EM_SERVICES": ("ingest", "sources"),
    "EM_RUN_CONSOLIDATION": ("ingest", "consolidate"),
    "EM_CI_METADATA": ("catalog", "ci_metadata"),
    "MAX_WORKERS": ("ingest", "workers"),
    "MEMORY_LIMIT_GB": ("ingest", "memory_limit_gb"),
    "ZARR_CHUNK_SIZE_MB": ("ingest", "output", "chunk_mb"),
    "STREAMING_CHUNK_MB": ("ingest", "transfer", "part_mb"),
    "EBI_ENTRY_ID": ("ingest", "ebi", "items"),
    "IDR_IMAGE_IDS": ("ingest", "idr", "items"),
    "IDR_OUTPUT_DIR": ("ingest", "idr", "raw_folder"),
    "FLYEM_CROP_SIZE": ("ingest", "flyem", "crop_shape"),
    "FLYEM_INSTANCE": ("ingest", "flyem", "instance"),
    "GRAYSCALE_INSTANCE": ("ingest", "flyem", "instance"),
    "NEUPRINT_SERVER": ("ingest", "flyem", "neuprint_url"),
    "NEUPRINT_DATASET": ("ingest", "flyem", "neuprint_dataset"),
    "NEUPRINT_TOKEN": ("ingest", "flyem", "neuprint_token"),
    "NEUPRINT_APPLICATION_CREDENTIALS": ("ingest", "flyem", "neuprint_token"),
    "LARGE_ARRAY_MODE": ("ingest", "openorganelle", "large_array_mode"),
    "MAX_ARRAY_SIZE_MB": ("ingest", "openorganelle", "max_array_mb"),
    "DOWNSAMPLE_FACTOR": ("ingest", "openorganelle", "downsample_factor"),
    "CONSOLIDATE_MEMORY_LIMIT": ("catalog", "memory_limit_mb"),
    "CONSOLIDATE_CPU_LIMIT": ("catalog", "cpus"),
    **{
        f"{source.upper()}_{name}": ("ingest", source, field)
        for source in ("ebi", "epfl", "flyem", "idr", "openorganelle")
        for name, field in (
            ("MEMORY_LIMIT", "memory_limit_mb"),
            ("CPU_LIMIT", "cpus"),
        )
    },
}
"""Environment names of other systems that are honoured -> our section and field."""

OTHER_NAMES = {
    "EM_CONFIG_FILE",  # the YAML layer
    "EM_CONFIG_PATH",  # another name of it
    "EM_PROFILE",  # the profile layer, see config.profiles
    "EM_COMMAND_LINE",  # which variables `em-platform --set` wrote
    "EM_SESSION",  # which processes end together, see processes.session
    "EM_SHARED_DATA",  # real data for tests and benchmarks
    "EM_PG_HOST",  # Dagster's PostgreSQL, see docker/dagster.yaml
    "EM_PG_USER",
    "EM_PG_PASSWORD",
    "EM_PG_DB",
    "EM_DOCKER_NETWORK",  # where DockerRunLauncher starts runs
    "EM_DOCKER_IMAGE",
}
"""EM_ names that are not settings; any other unknown EM_ name is an error."""


class StorageSettings(Model):
    """Where results lie.

    `root` is any fsspec URL (`file:///data/em`, `s3://bucket/em`); empty means
    `data` under `home`. `endpoint_url` points S3 at a server other than AWS.

    `access_key` and `secret_key` are those of S3; empty means the usual AWS
    environment.
    """

    root: str = ""
    endpoint_url: str = ""
    access_key: str = ""
    secret_key: SecretStr = SecretStr("")


class DaskSettings(Model):
    """Who does the heavy work: a remote scheduler by address, else a local cluster.

    `address` is that of a scheduler; a local cluster has `workers` processes with
    `memory_limit_mb` each. A cluster without any worker is waited for `wait_s`.
    """

    address: str = ""
    wait_s: float = Field(default=30.0, gt=0)
    workers: int = 2
    memory_limit_mb: int = 2048


def _networks(values: tuple[str, ...]) -> tuple[str, ...]:
    """Addresses and networks as they are compared: without bits beyond their length."""
    networks = [ipaddress.ip_network(value, strict=False) for value in values]
    if not all(network.prefixlen for network in networks):
        raise ValueError("a network of length 0 is every address; name the proxies")
    return tuple(map(str, networks))


Networks = Annotated[tuple[str, ...], AfterValidator(_networks)]


class WebSettings(Model):
    """Where the Dagster web UI listens; a busy port is replaced by a free one.

    It listens at `host` and `port`. Who is not the account that runs it on this
    computer is asked for the `token`; without one it is made at the first start and
    kept under `home`. `names` are further host names under which browsers reach it.

    `trusted_proxies` are addresses or networks of proxies in front of this page, the
    operator's, aloha and TEM DB: what they say in X-Forwarded-For and X-Forwarded-Proto
    is believed. What they pass on always needs the password.
    """

    host: str = "127.0.0.1"
    port: int = 3000  # Dagster's own default
    token: SecretStr = SecretStr("")
    names: tuple[str, ...] = ()
    trusted_proxies: Networks = ()


class HistorySettings(Model):
    """How long Dagster keeps what happened within a run.

    The step log of a run that ended is packed to a tenth after `pack_after_min`. Step
    logs and printed output are deleted after `keep_logs_days`; 0 keeps them for ever.
    So are runs whose work a later run of the same job, partition and assets did again
    with success. What the last run made, what its checks found and its state are always
    kept, and failures until there is a success. A look of a sensor that found nothing
    to do is forgotten after `keep_skipped_hours`; 0 leaves that to Dagster (a day).
    """

    pack_after_min: float = Field(default=2.0, ge=0)
    keep_logs_days: float = Field(default=90.0, ge=0)
    keep_skipped_hours: float = Field(default=6.0, ge=0)


class Settings(Model):
    """Everything that can be set.

    `home` holds what the platform needs to remember beside the results: Dagster's
    history, the recorder's table, camera frames.
    """

    home: Path = Path(".em_platform")
    storage: StorageSettings = StorageSettings()
    broker: BrokerSettings = BrokerSettings()
    acquisition: AcquisitionSettings = AcquisitionSettings()
    stitching: StitchingSettings = StitchingSettings()
    dask: DaskSettings = DaskSettings()
    web: WebSettings = WebSettings()
    history: HistorySettings = HistorySettings()
    aloha: AlohaSettings = AlohaSettings()
    temdb: TemdbSettings = TemdbSettings()
    ingest: IngestSettings = IngestSettings()
    catalog: CatalogSettings = CatalogSettings()
    cryoem: CryoemSettings = CryoemSettings()
    logging: LoggingSettings = LoggingSettings()
    tilt_series: TiltSeriesSettings = TiltSeriesSettings()
    alerts: AlertSettings = AlertSettings()

    @property
    def logs_folder(self) -> Path:
        """Where processes write their logs."""
        return Path(self.logging.folder or self.home / "logs").absolute()

    @property
    def plans_folder(self) -> Path:
        """Where the plans of simulated tilt series lie."""
        return Path(self.tilt_series.plans or self.home / "plans").absolute()

    @property
    def simulations_folder(self) -> Path:
        """Where simulated tilt series are written."""
        return Path(self.tilt_series.folder or self.home / "simulations").absolute()

    @property
    def sessions_folder(self) -> Path:
        """Where sessions of cryo-EM arrive."""
        return Path(self.cryoem.sessions or self.home / "cryoem").absolute()

    @property
    def session_results_folder(self) -> Path:
        """Where what is made of them lies."""
        return Path(self.cryoem.results or self.home / "cryoem_results").absolute()

    @property
    def raw_folder(self) -> Path:
        """Where files of public sources lie as they were fetched."""
        return Path(self.ingest.transfer.raw_folder or self.home / "raw").absolute()
