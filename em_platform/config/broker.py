"""Settings of the message bus."""

from pydantic import Field, SecretStr

from em_platform.model import Model


class BrokerSettings(Model):
    """Which STOMP broker carries the messages.

    `embedded` starts our own at `host:port` (port 0: a free one); otherwise one must be
    there already. `prefix` stands before every topic (`/topic/` for RabbitMQ and
    ActiveMQ), `vhost` is the virtual host (`/` for RabbitMQ), empty means the host's
    name. With a `username` the embedded broker asks for it and the `password`.

    `tls` encrypts: the embedded broker shows `tls_certificate` with `tls_key`, clients
    trust `tls_ca`, or what the system trusts where it is empty.

    A client of the embedded broker that reads too slowly loses its oldest messages
    above `client_queue_limit`; a frame above `frame_limit_mb` is refused.
    """

    embedded: bool = True
    host: str = "127.0.0.1"
    port: int = Field(default=61616, ge=0, lt=65536)
    prefix: str = ""
    vhost: str = ""
    username: str = ""
    password: SecretStr = SecretStr("")
    tls: bool = False
    tls_ca: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    heart_beat_s: float = Field(default=10.0, ge=0)
    client_queue_limit: int = Field(default=10_000, gt=0)
    frame_limit_mb: int = Field(default=64, gt=0)
