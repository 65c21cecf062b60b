"""Settings of the message bus."""

from pydantic import Field, SecretStr

from em_platform.model import Model


class BrokerSettings(Model):
    """Which STOMP broker carries the messages.

    `embedded` starts our own at `host:port`; otherwise one must be there already.
    `prefix` stands before every topic (`/topic/` for RabbitMQ and ActiveMQ).
    """

    embedded: bool = True
    host: str = "127.0.0.1"
    port: int = Field(default=61616, gt=0, lt=65536)
    prefix: str = ""
    username: str = ""
    password: SecretStr = SecretStr("")
    tls: bool = False
    client_queue_limit: int = Field(default=10_000, gt=0)
    frame_limit_mb: int = Field(default=64, gt=0)
