"""A sentence to the people who must act: by webhook, Slack or e-mail."""

import logging
import smtplib
from collections.abc import Sequence
from email.message import EmailMessage
from urllib.parse import unquote, urlsplit

import requests

from em_platform.config.services import AlertSettings
from em_platform.errors import ConfigError, PlatformError, SourceUnavailable
from em_platform.model import Model

log = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
_SLACK = "slack+"


class Alert(Model):
    """What happened, to what, and where a person looks.

    `kind` is `run_failed`, `check_failed`, `scope_stopped`, `disk_full` or
    `service_fails`. `subject` is the montage, item, folder or service; `page` a path of
    the web UI, empty where there is none.
    """

    kind: str
    subject: str
    sentences: tuple[str, ...]
    page: str = ""

    @property
    def title(self) -> str:
        """One line: what kind of trouble, and where."""
        text = f"em-platform: {self.kind.replace('_', ' ')}: {self.subject}"
        return " ".join(text.split())


def send_all(alerts: Sequence[Alert], settings: AlertSettings) -> bool:
    """Send to each address of `alerts.to`; whether each alert has reached one.

    An address that does not take it is logged: the others shall not wait for it.
    """
    targets = [each.strip() for each in settings.to.get_secret_value().split(",")]
    return all(_reaches(alert, [t for t in targets if t], settings) for alert in alerts)


def _reaches(alert: Alert, targets: Sequence[str], settings: AlertSettings) -> bool:
    reached = False
    for target in targets:
        try:
            send(alert, target, settings)
        except PlatformError as error:
            log.error("%s", error)
        else:
            reached = True
    return reached


def send(alert: Alert, target: str, settings: AlertSettings) -> None:
    """Send one alert to one address.

    Raises
    ------
    ConfigError
        It is no address that can be sent to.
    SourceUnavailable
        The other side does not take it.
    """
    scheme, _, rest = target.partition(":")
    try:
        if scheme == "mailto":
            _mail(alert, unquote(rest), settings)
        elif scheme in ("http", "https"):
            _post(target, {"text": _text(alert), **alert.model_dump(mode="json")})
        elif scheme in (f"{_SLACK}http", f"{_SLACK}https"):
            _post(target.removeprefix(_SLACK), {"text": _text(alert)})
        else:
            raise ConfigError(
                f"alerts.to: {scheme or 'nothing'!r} is no way to send; use https://, "
                "slack+https:// or mailto:"
            )
    except (OSError, smtplib.SMTPException) as error:
        # A webhook's path is its key, so that only its host is named.
        host = urlsplit(target).hostname or f"{settings.smtp_host}"
        raise SourceUnavailable(
            f"alerts: {host} did not take {alert.title!r} ({type(error).__name__}); "
            "check alerts.to and the network"
        ) from error


def _text(alert: Alert) -> str:
    return "\n".join((alert.title, *alert.sentences))


def _post(url: str, content: object) -> None:
    answer = requests.post(url, json=content, timeout=_TIMEOUT_S)
    answer.raise_for_status()


def _mail(alert: Alert, receiver: str, settings: AlertSettings) -> None:
    letter = EmailMessage()
    letter["From"], letter["To"] = settings.sender, receiver
    letter["Subject"] = alert.title
    letter.set_content("\n".join((*alert.sentences, alert.page)))
    host, port = settings.smtp_host, settings.smtp_port
    with smtplib.SMTP(host, port, timeout=_TIMEOUT_S) as server:
        if settings.smtp_username:
            server.starttls()
            password = settings.smtp_password.get_secret_value()
            server.login(settings.smtp_username, password)
        server.send_message(letter)
