"""All settings, one section a domain; a unit stands in each name that needs one."""

from pathlib import Path

from pydantic import SecretStr

from em_platform.config.acquisition import AcquisitionSettings
from em_platform.config.broker import BrokerSettings
from em_platform.config.logs import LoggingSettings
from em_platform.config.services import AlohaSettings, TemdbSettings
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
}
"""Environment names of other systems that are honoured -> our section and field."""

OTHER_NAMES = {
    "EM_CONFIG_FILE",  # the YAML layer
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
    """

    root: str = ""
    endpoint_url: str = ""
    access_key: str = ""
    secret_key: SecretStr = SecretStr("")


class DaskSettings(Model):
    """Who does the heavy work: a remote scheduler by address, else a local cluster."""

    address: str = ""
    workers: int = 2
    memory_limit_mb: int = 2048


class WebSettings(Model):
    """Where the Dagster web UI listens; a busy port is replaced by a free one."""

    host: str = "127.0.0.1"
    port: int = 3000


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
    aloha: AlohaSettings = AlohaSettings()
    temdb: TemdbSettings = TemdbSettings()
    logging: LoggingSettings = LoggingSettings()
