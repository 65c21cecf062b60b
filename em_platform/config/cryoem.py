"""Settings of cryo-EM processing: its recipes, its broker, its records."""

from typing import Literal

from pydantic import Field, SecretStr

from em_platform.model import Model


class RabbitmqSettings(Model):
    """Which RabbitMQ carries the messages of recipes.

    `host`, `port`, `vhost`, `username` and `password` are those of a site's zocalo or
    cryo-EM services. `tls` encrypts and trusts `tls_ca`, or what the system trusts
    where it is empty. A message that cannot be handled yet is tried `tries` times,
    every `retry_s`, and then goes to the dead letters (`dlq.` and the queue's name).
    """

    host: str = "127.0.0.1"
    port: int = Field(default=5672, gt=0, lt=65536)  # AMQP's own
    vhost: str = "/"
    username: str = "guest"  # RabbitMQ's own, which it accepts from its host only
    password: SecretStr = SecretStr("guest")
    tls: bool = False
    tls_ca: str = ""
    tries: int = Field(default=5, gt=0)
    retry_s: float = Field(default=5.0, gt=0)


class CryoemSettings(Model):
    """Where recipes are read, and where what is found goes.

    A recipe is looked for in `recipe_folder` first, then among the platform's own.
    `ispyb_url` is the database of ISPyB's rows (`sqlite:///file`, or `mysql://`,
    `mariadb://` or `postgresql://user:password@host/name`); empty means an SQLite file
    under `home`. `rabbitmq` is the broker of live services. A new project's pipeline is
    written for `project_dialect`: `labels` for doppio and RELION from 4, `relion31`.
    Services correct motion by `motion_engine` and fit CTFs by `ctf_engine`: built in,
    or a program on PATH.
    """

    recipe_folder: str = ""
    ispyb_url: str = ""
    project_dialect: Literal["labels", "relion31"] = "labels"
    motion_engine: Literal["builtin", "relion", "motioncor2"] = "builtin"
    ctf_engine: Literal["builtin", "ctffind"] = "builtin"
    rabbitmq: RabbitmqSettings = RabbitmqSettings()
