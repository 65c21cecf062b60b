"""Settings of bus, logs, TEM database, upload, buffer and operator's page."""

from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from em_platform.model import Model


class BufferSettings(Model):
    """How finished montages are uploaded, and when their frames may go.

    `url` is that of aloha; empty means the one that these settings start. After the end
    of a montage its tiles' statistics, matches and verdicts are waited for while they
    come, and `statistics_wait_s` longer; what has not come is named in its record. Then
    `parallel` tiles are sent side by side; an answer is waited for `timeout_s`, and
    what failed is tried again after `retry_s`, then later and later up to
    `retry_most_s`. Frames stay for `keep_s` after their upload was verified, unless
    less than `min_free_gb` is left on their disk; those of a cancelled montage stay for
    `keep_cancelled_s`.
    """

    url: str = ""
    parallel: int = Field(default=2, gt=0, le=64)
    statistics_wait_s: float = Field(default=60.0, ge=0)
    timeout_s: float = Field(default=60.0, gt=0)
    retry_s: float = Field(default=1.0, gt=0)
    retry_most_s: float = Field(default=60.0, gt=0)
    keep_s: float = Field(default=3600.0, ge=0)
    keep_cancelled_s: float = Field(default=30.0, ge=0)
    min_free_gb: float = Field(default=2.0, ge=0)


class OperatorSettings(Model):
    """Where the operator's page is served, and who may act on it.

    Who is not the account that runs it on this computer is asked for the `token`;
    without one it is made at the first start and kept under `home`. `names` are further
    host names under which browsers reach the page. Control ends `control_timeout_s`
    after its holder's page has gone; what was not updated for `stale_s` is shown as
    old.

    It listens at `host` and `port`; a taken port is replaced by a free one.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8400, ge=0, lt=65536)
    token: SecretStr = SecretStr("")
    names: tuple[str, ...] = ()
    control_timeout_s: float = Field(default=90.0, gt=0)
    stale_s: float = Field(default=5.0, gt=0)


class AlohaSettings(Model):
    """The service that takes tiles into the store; every call needs the `token`.

    Without a token one is made at the first start and kept under `home`. A frame whose
    file or pixels are above `tile_limit_mb` is refused. `workers` frames are compressed
    side by side, in chunks of `chunk_px`. No frame is taken while less than
    `min_free_gb` is left on the disk where aloha works.

    It listens at `host` and `port`; `compression_level` is Zstandard's.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8401, ge=0, lt=65536)
    token: SecretStr = SecretStr("")
    tile_limit_mb: float = Field(default=512.0, gt=0)
    workers: int = Field(default=2, gt=0, le=64)
    chunk_px: int = Field(default=512, ge=16, multiple_of=2)
    compression_level: int = Field(default=1, ge=1, le=22)
    min_free_gb: float = Field(default=0.5, ge=0)


class TemdbSettings(Model):
    """The TEM database's service.

    `url` names another one that is used instead of our own. `database` is an SQLAlchemy
    URL; empty means an SQLite file under `home`. Without a `token` one is made at the
    first start and kept under `home`.

    Our own listens at `host` and `port`.
    """

    url: str = ""
    host: str = "127.0.0.1"
    port: int = Field(default=8402, ge=0, lt=65536)
    database: str = ""
    token: SecretStr = SecretStr("")


class BrokerSettings(Model):
    """Which STOMP broker carries the messages.

    `embedded` starts our own at `host:port` (port 0: a free one); otherwise one must be
    there already. `prefix` stands before every topic (`/topic/` for RabbitMQ and
    ActiveMQ), `vhost` is the virtual host (`/` for RabbitMQ), empty means the host's
    name. The broker asks for `username` and `password`. Without them the embedded one
    asks for the token in `token_file`, which it makes at its first start (empty:
    `tokens/broker` under `home`); who names the file of another computer's broker, or
    starts in the same home, has the login.

    `tls` encrypts: the embedded broker shows `tls_certificate` with `tls_key`, clients
    trust `tls_ca`, or what the system trusts where it is empty.

    A client of the embedded broker that reads too slowly loses its oldest messages
    above `client_queue_limit`; a frame above `frame_limit_mb` is refused.

    Clients and broker at `host` and `port` send a sign of life every `heart_beat_s` (0:
    never).
    """

    embedded: bool = True
    host: str = "127.0.0.1"
    port: int = Field(default=61616, ge=0, lt=65536)  # as pigeon-client's default
    prefix: str = ""
    vhost: str = ""
    username: str = ""
    password: SecretStr = SecretStr("")
    token_file: str = ""
    tls: bool = False
    tls_ca: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    heart_beat_s: float = Field(default=10.0, ge=0)
    client_queue_limit: int = Field(default=10_000, gt=0)
    frame_limit_mb: int = Field(default=64, gt=0)

    @model_validator(mode="after")
    def _password_has_username(self) -> Self:
        # It would be asked of nobody, and the broker be open.
        if self.password.get_secret_value() and not self.username:
            raise ValueError(
                "a password was found without a username, both were expected; set "
                "broker.username too, or remove broker.password"
            )
        return self


class LoggingSettings(Model):
    """Lines of JSON or plain text to stderr; with `loki_url` also to a Loki server.

    `loki_tags` are comma-separated `key:value` pairs. Processes write to
    files in `folder` (empty: `logs` under `home`).

    `format` and `level` choose the lines; `loki_username` and `loki_password` are
    Loki's, where it asks for them.
    """

    format: Literal["json", "text"] = "json"
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    folder: str = ""
    loki_url: str = ""
    loki_tags: str = ""
    loki_username: str = ""
    loki_password: SecretStr = SecretStr("")


class AlertSettings(Model):
    """Who is alerted when a person is needed: a run or a check failed, a stop, a disk.

    `to` are comma-separated addresses: `https://...` gets JSON, `slack+https://...` a
    line for Slack (or Mattermost), `mailto:name@host` an e-mail from `sender` by the
    server at `smtp_host` and `smtp_port` (with a login where `smtp_username` is set:
    then encrypted). Less than `min_free_gb` on the disk of home or results is alerted.

    `smtp_password` belongs to that login.
    """

    to: SecretStr = SecretStr("")
    sender: str = "em-platform@localhost"
    smtp_host: str = "localhost"
    smtp_port: int = Field(default=25, gt=0, lt=65536)
    smtp_username: str = ""
    smtp_password: SecretStr = SecretStr("")
    min_free_gb: float = Field(default=5.0, ge=0)
