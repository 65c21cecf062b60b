"""Settings of the logs."""

from typing import Literal

from pydantic import SecretStr

from em_platform.model import Model


class LoggingSettings(Model):
    """Lines of JSON or plain text to stderr; with `loki_url` also to a Loki server.

    `loki_tags` are `key:value` pairs with commas between them.
    """

    format: Literal["json", "text"] = "json"
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    loki_url: str = ""
    loki_tags: str = ""
    loki_username: str = ""
    loki_password: SecretStr = SecretStr("")
