"""Settings of the logs."""

from typing import Literal

from pydantic import SecretStr

from em_platform.model import Model


class LoggingSettings(Model):
    """Lines of JSON or plain text to stderr; with `loki_url` also to a Loki server.

    `loki_tags` are `key:value` pairs with commas between them. Processes write to
    files in `folder` (empty: `logs` under `home`).
    """

    format: Literal["json", "text"] = "json"
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    folder: str = ""
    loki_url: str = ""
    loki_tags: str = ""
    loki_username: str = ""
    loki_password: SecretStr = SecretStr("")
