"""RabbitMQ as the cryo-EM services use it: queues, dead letters, confirmed sending.

Messages are python-workflows' on the wire; its own transport declares no queue and
leaves a message that nobody takes unnoticed.
"""

import json
import logging
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pika
import pika.data
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import (
    AMQPChannelError,
    AMQPConnectionError,
    AMQPError,
    ChannelClosedByBroker,
    NackError,
    UnroutableError,
)

from em_platform.config import RabbitmqSettings
from em_platform.cryoem.services.step import Headers, Outgoing
from em_platform.errors import BrokerUnavailable, MessageRejected, without_passwords

log = logging.getLogger(__name__)

ERROR_HEADER = "em-error"
QUEUE_HEADER = "em-queue"
TRIES_HEADER = "em-tries"

# What it says of a lost connection, with a traceback, becomes one sentence below.
logging.getLogger("pika").setLevel(logging.CRITICAL)

_decode_value = pika.data.decode_value


def _decode_any_value(encoded: bytes, offset: int) -> tuple[Any, int]:
    """As pika's, which ends at an infinite double and at a time after the year 9999.

    The connection would end with it, and the message come again.
    """
    try:
        found: tuple[Any, int] = _decode_value(encoded, offset)
    except (OverflowError, ValueError, OSError):
        is_short = encoded[offset : offset + 1] == b"f"
        return None, offset + (5 if is_short else 9)
    return found


pika.data.decode_value = _decode_any_value

# A stage computes for minutes in another thread; the connection answers all the while.
_HEARTBEAT_S = 60
_TIMEOUT_S = 10
_REFUSED, _NOT_FOUND, _PRECONDITION_FAILED = 403, 404, 406
_NO_LIMIT = 1_000_000_000
# Of a frame's 128 KiB; the sentence of an error is to have room, too.
_HEADER_BYTES = 64_000
_END_OF_INTEGERS = 1 << 63
_MOST_OF_A_SENTENCE = 4000
# Of AMQP.
_MOST_OF_A_NAME = 255
# Of a message's text; lists in Python are twenty times as large.
_BODY_BYTES = 4_000_000


def dead_letters_of(queue: str) -> str:
    """The queue of messages that could not be handled, named as upstream's."""
    return f"dlq.{queue}"


def retries_of(queue: str) -> str:
    """The queue in which messages wait before they are tried again."""
    return f"retry.{queue}"


@contextmanager
def connected(settings: RabbitmqSettings) -> Iterator[BlockingChannel]:
    """A channel that confirms what is sent.

    Raises
    ------
    BrokerUnavailable
        None answers there, it refuses the login, or it went away (retryable).
    """
    try:
        connection = pika.BlockingConnection(_parameters(settings))
    except (AMQPError, OSError) as error:
        found = str(error).strip() or "nothing answers"
        raise BrokerUnavailable(
            f"RabbitMQ: {settings.host}:{settings.port} does not take the connection "
            f"({without_passwords(found)}), a login was expected; start it, or correct "
            "cryoem.rabbitmq"
        ) from error
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel
    except (AMQPConnectionError, AMQPChannelError) as error:
        raise BrokerUnavailable(
            f"RabbitMQ: {settings.host}:{settings.port} closed the connection "
            f"({error!r}), an open one was expected; unfinished messages come again"
        ) from error
    finally:
        if connection.is_open:
            # A broker that is gone by now has closed it, too.
            with suppress(AMQPError, OSError):
                connection.close()


def declare(channel: BlockingChannel, queue: str, settings: RabbitmqSettings) -> None:
    """Make a queue with its dead letters and retries; one that is there stays."""
    _declare_one(channel, dead_letters_of(queue), {"x-queue-type": "quorum"})
    # RabbitMQ 4 has a limit of its own, and these are delivered often.
    waiting = {"x-queue-type": "quorum", "x-delivery-limit": _NO_LIMIT}
    if not _declare_one(channel, retries_of(queue), waiting):
        log.warning(
            "RabbitMQ: the queue %s was made otherwise, by an earlier version or the "
            "site, and a broker that is killed may lose a retry; delete it when it is "
            "empty, and start the services again",
            retries_of(queue),
        )
    # The limit counts what killed its process each time, which no code can catch.
    own = {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": dead_letters_of(queue),
        "x-delivery-limit": settings.tries,
    }
    _declare_one(channel, queue, own)


def publish(channel: BlockingChannel, message: Outgoing) -> None:
    """Send a message; it is on the broker's disk when this returns.

    Raises
    ------
    MessageRejected
        There is no such queue, or it takes no more.
    """
    body, headers = message.encoded(), message.headers
    if message.is_topic:
        _broadcast(channel, message.queue, body, headers=headers)
    else:
        publish_body(channel, message.queue, body, headers=headers)


def _check_name(name: Any) -> None:
    # Recipes and headers choose it, and pika ends where it is none.
    is_text = isinstance(name, str) and name.isprintable()
    if not is_text or len(name.encode()) > _MOST_OF_A_NAME:
        raise MessageRejected(
            f"RabbitMQ: {str(name)[:80]!r} is no name of a queue, a text on one line "
            f"of at most {_MOST_OF_A_NAME} bytes was expected; correct the recipe"
        )


def header_text(value: object) -> str:
    """A sentence or a name as a header can have it, which is short."""
    text = str(value)[:_MOST_OF_A_SENTENCE]
    return text.encode(errors="backslashreplace").decode()


def _broadcast(
    channel: BlockingChannel, topic: str, body: bytes, *, headers: Headers
) -> None:
    _check_name(topic)
    properties = pika.BasicProperties(headers=headers, delivery_mode=2)
    # On a channel of its own: the broker closes it where there is no such exchange.
    trial = channel.connection.channel()
    try:
        trial.confirm_delivery()
        trial.basic_publish(topic, "", body, properties)
        trial.close()
    except ChannelClosedByBroker as error:
        if error.reply_code not in (_NOT_FOUND, _REFUSED):
            raise
        raise MessageRejected(
            f"RabbitMQ: the exchange {topic} does not exist or is the broker's own, "
            "one was expected; start who listens to it, or declare it"
        ) from error


def publish_body(
    channel: BlockingChannel,
    queue: str,
    body: bytes,
    *,
    headers: Headers,
) -> None:
    """As `publish`, of a message that is sent on byte by byte."""
    _check_name(queue)
    properties = pika.BasicProperties(headers=headers, delivery_mode=2)
    try:
        channel.basic_publish("", queue, body, properties, mandatory=True)
    except (UnroutableError, NackError) as error:
        raise MessageRejected(
            f"RabbitMQ: the queue {queue} does not exist or takes no more, one "
            "with room was expected; start its service, or declare it"
        ) from error


def decoded(body: bytes) -> Any:
    """The body of a message.

    Raises
    ------
    MessageRejected
        It is no JSON, or too long.
    """
    if len(body) > _BODY_BYTES:
        raise MessageRejected(
            f"message: it has {len(body)} bytes, at most {_BODY_BYTES} were expected; "
            "name a file instead of what it holds"
        )
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MessageRejected(
            f"message: {body[:60]!r} is no JSON ({str(error)[:80]}), JSON was "
            "expected; send it so"
        ) from error


def text_headers(headers: Headers | None) -> Headers:
    """Headers that go on with a message: short texts and numbers.

    RabbitMQ's own lists of deliveries do not, nor what has no room in a frame.
    """
    kept: Headers = {}
    room = _HEADER_BYTES
    for name, value in (headers or {}).items():
        room -= len(str(value)) + len(name)
        is_plain = isinstance(value, str) or (
            isinstance(value, int) and abs(value) < _END_OF_INTEGERS
        )
        if is_plain and room > 0 and name != "x-delivery-count":
            kept[name] = value
    return kept


def tries_of(headers: Headers | None) -> int | None:
    """How often a message was tried; None where a stranger wrote something else."""
    found = (headers or {}).get(TRIES_HEADER, 0)
    is_count = isinstance(found, int) and not isinstance(found, bool)
    return found if is_count and 0 <= found < _NO_LIMIT else None


def put_to_dead_letters(
    channel: BlockingChannel, queue: str, body: bytes, *, headers: Headers, why: str
) -> None:
    """Put a message of a queue to those that could not be handled."""
    headers = {**headers, ERROR_HEADER: header_text(why), QUEUE_HEADER: queue}
    publish_body(channel, dead_letters_of(queue), body, headers=headers)


def _declare_one(channel: BlockingChannel, queue: str, arguments: Any) -> bool:
    """Make a queue; False where there is one that was made otherwise.

    Raises
    ------
    BrokerUnavailable
        The broker cannot make it.
    """
    # On a channel of its own: a refusal closes it.
    trial = channel.connection.channel()
    try:
        trial.queue_declare(queue, durable=True, arguments=arguments)
        trial.close()
        return True
    except ChannelClosedByBroker as error:
        if error.reply_code != _PRECONDITION_FAILED:
            raise
        refusal = error.reply_text
    try:
        # The site's own, made otherwise; it works as well.
        trial = channel.connection.channel()
        trial.queue_declare(queue, passive=True)
        trial.close()
        return False
    except ChannelClosedByBroker as error:
        raise BrokerUnavailable(
            f"RabbitMQ: it does not make the queue {queue} ({refusal}), version 3.8 "
            "or a later one was expected; update it"
        ) from error


def _parameters(settings: RabbitmqSettings) -> pika.ConnectionParameters:
    options = None
    if settings.tls:
        context = ssl.create_default_context(cafile=settings.tls_ca or None)
        options = pika.SSLOptions(context, settings.host)
    return pika.ConnectionParameters(
        host=settings.host,
        port=settings.port,
        virtual_host=settings.vhost,
        credentials=pika.PlainCredentials(
            settings.username,
            settings.password.get_secret_value() or settings.username,
        ),
        heartbeat=_HEARTBEAT_S,
        socket_timeout=_TIMEOUT_S,
        stack_timeout=_TIMEOUT_S,
        blocked_connection_timeout=_HEARTBEAT_S,
        ssl_options=options,
        client_properties={"connection_name": "em-platform"},
    )
