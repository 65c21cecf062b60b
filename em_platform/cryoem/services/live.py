"""One service on RabbitMQ: message by message until it is stopped.

A message is acknowledged last, when all that it makes the service send is on the
broker's disk. So a service that is killed loses none; one that had already sent sends
again, which is why all that receives is idempotent. No message ends the service: one
that cannot be handled becomes a dead letter with its sentence, and so does, alone, one
that the service sends to a queue that does not exist; the others are sent.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypedDict

from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

from em_platform.config import RabbitmqSettings
from em_platform.cryoem.services.broker import (
    ERROR_HEADER,
    QUEUE_HEADER,
    TRIES_HEADER,
    connected,
    dead_letters_of,
    declare,
    decoded,
    header_text,
    publish,
    publish_body,
    put_to_dead_letters,
    text_headers,
    tries_of,
)
from em_platform.cryoem.services.retries import Retries, put_off
from em_platform.cryoem.services.step import (
    Handler,
    Headers,
    Outgoing,
    ServiceContext,
    handle_message,
)
from em_platform.errors import (
    BrokerUnavailable,
    MessageRejected,
    PlatformError,
    may_pass,
)

log = logging.getLogger(__name__)

# So soon a signal ends the wait for messages.
_STEP_S = 0.5
_RECONNECT_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Service:
    """What listens where."""

    name: str
    queue: str
    handler: Handler
    place: ServiceContext


def serve(
    service: Service,
    settings: RabbitmqSettings,
    stop: threading.Event,
    *,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Handle the messages of a queue until `stop` is set; waits for a broker.

    `ready` is called when the queue is there and the first message may come.
    """
    with ThreadPoolExecutor(1, thread_name_prefix=service.name) as pool:
        while not stop.is_set():
            try:
                with connected(settings) as channel:
                    declare(channel, service.queue, settings)
                    channel.basic_qos(prefetch_count=1)
                    ready()
                    _consume(channel, service, settings, stop=stop, pool=pool)
            except (BrokerUnavailable, MessageRejected) as error:
                # Of the second kind where its own queues were deleted meanwhile; a
                # message that was not answered comes again.
                log.warning("%s: %s", service.name, error)
                stop.wait(_RECONNECT_S)


def _consume(
    channel: BlockingChannel,
    service: Service,
    settings: RabbitmqSettings,
    *,
    stop: threading.Event,
    pool: ThreadPoolExecutor,
) -> None:
    retries = Retries(channel, service.queue, retry_s=settings.retry_s)
    for method, properties, body in channel.consume(
        service.queue, inactivity_timeout=_STEP_S
    ):
        if stop.is_set():
            # What was delivered meanwhile goes back to the queue.
            break
        if method is None:
            retries.pass_on()
            continue
        headers = text_headers(properties.headers)
        work = pool.submit(
            _handled,
            service,
            headers,
            body,
            is_repeat=method.redelivered,
            tries=tries_of(properties.headers),
        )
        _keep_alive(channel, work)
        outgoing, error = work.result()
        failed = Message(headers=headers, body=body)
        if error is None or _fail(
            channel, service, settings, failed=failed, error=error
        ):
            _send_all(channel, service, outgoing)
        channel.basic_ack(method.delivery_tag)
        retries.pass_on()
    channel.cancel()


def _handled(
    service: Service,
    headers: Headers,
    body: bytes,
    *,
    is_repeat: bool,
    tries: int | None,
) -> tuple[list[Outgoing], PlatformError | None]:
    """What the service sends; where it could not, why, and what is then sent."""
    failures: list[Outgoing] = []
    try:
        if tries is None:
            raise MessageRejected(
                f"message: its header {TRIES_HEADER} is no count, a whole number was "
                "expected; leave it out"
            )
        sent = handle_message(
            service.handler,
            headers,
            decoded(body),
            service.place,
            on_failure=failures,
            is_repeat=is_repeat,
        )
    except PlatformError as error:
        return failures, error
    except Exception as error:
        # A fault of ours must not end the service: the next message may be well.
        log.exception("%s: a message could not be handled", service.name)
        return [], PlatformError(
            f"{service.name}: this is a fault of em-platform, not of the message: "
            f"found {type(error).__name__} ({str(error)[:200]}), expected a result; "
            "report it"
        )
    return sent, None


def _keep_alive(channel: BlockingChannel, work: Future[Any]) -> None:
    """Answer the broker's heartbeats until the work is done."""
    connection = channel.connection

    def wake(_: Future[Any]) -> None:
        with suppress(AMQPError):  # it may be lost by then
            connection.add_callback_threadsafe(lambda: None)

    work.add_done_callback(wake)
    while not work.done():
        connection.process_data_events(time_limit=_STEP_S)


def _send_all(
    channel: BlockingChannel, service: Service, outgoing: list[Outgoing]
) -> None:
    """Send what has a queue; the rest waits among the dead letters of the sender."""
    for message in outgoing:
        try:
            publish(channel, message)
        except MessageRejected as error:
            log.error("%s: dead letter: %s", service.name, error)
            own = {TRIES_HEADER: 1, ERROR_HEADER: header_text(error)}
            to = header_text(message.queue)
            headers = {**message.headers, **own, QUEUE_HEADER: to}
            dead = dead_letters_of(service.queue)
            publish_body(channel, dead, message.encoded(), headers=headers)


@dataclass(frozen=True, kw_only=True)
class Message:
    """One that came, as it came."""

    headers: Headers
    body: bytes


def _fail(
    channel: BlockingChannel,
    service: Service,
    settings: RabbitmqSettings,
    *,
    failed: Message,
    error: PlatformError,
) -> bool:
    """Put a message to be tried again, or to the dead letters; whether to these."""
    tries = (tries_of(failed.headers) or 0) + 1
    headers = {**failed.headers, TRIES_HEADER: tries}
    again = may_pass(error) and tries < settings.tries
    if again:
        log.info("%s: try %d: %s", service.name, tries, error)
    else:
        log.error("%s: dead letter: %s", service.name, error)
    # As it came, byte by byte: it may be no JSON.
    if again:
        after_s = settings.retry_s
        headers[ERROR_HEADER] = header_text(error)
        put_off(channel, service.queue, failed.body, headers=headers, after_s=after_s)
    else:
        put_to_dead_letters(
            channel, service.queue, failed.body, headers=headers, why=str(error)
        )
    return not again


def reinject(settings: RabbitmqSettings, queue: str) -> int:
    """Send the dead letters of a queue once more to where they were to go; how many.

    Raises
    ------
    MessageRejected
        That of some does not exist, still; they stay, all others were sent.
    """
    count, refused = 0, None
    with connected(settings) as channel:
        declare(channel, queue, settings)
        dead = dead_letters_of(queue)
        # Those that are there now: what fails again at once is for the next time.
        left = channel.queue_declare(dead, passive=True).method.message_count
        for _ in range(left):
            method, properties, body = channel.basic_get(dead)
            if method is None:
                break
            kept = text_headers(properties.headers)
            # Of what the broker itself made a dead letter, no header is ours.
            is_the_brokers = "x-death" in (properties.headers or {})
            to = queue if is_the_brokers else kept.get(QUEUE_HEADER, queue)
            for name in (TRIES_HEADER, ERROR_HEADER, QUEUE_HEADER):
                kept.pop(name, None)
            try:
                publish_body(channel, str(to), body, headers=kept)
            except MessageRejected as error:
                refused = (
                    error  # not acknowledged: it goes back when the channel closes
                )
                continue
            channel.basic_ack(method.delivery_tag)
            count += 1
    if refused is not None:
        raise refused
    return count


class DeadLetter(TypedDict):
    """A message that could not be handled: why, after how many tries."""

    error: str
    tries: int
    body: str


def dead_letters(settings: RabbitmqSettings, queue: str) -> list[DeadLetter]:
    """The dead letters of a queue; they stay there."""
    found: list[DeadLetter] = []
    with connected(settings) as channel:
        declare(channel, queue, settings)
        while True:
            method, properties, body = channel.basic_get(dead_letters_of(queue))
            if method is None:
                break
            headers = properties.headers or {}
            found.append(
                {
                    "error": str(headers.get(ERROR_HEADER) or _by_the_broker(headers)),
                    "tries": tries_of(headers) or 0,
                    "body": body.decode(errors="replace"),
                }
            )
        # Not acknowledged: they go back when the channel closes.
    return found


def _by_the_broker(headers: Headers) -> str:
    """Why RabbitMQ itself made a message a dead letter, which writes no sentence."""
    deaths = headers.get("x-death")
    for death in deaths if isinstance(deaths, list) else ():
        if isinstance(death, dict) and death.get("reason") == "delivery_limit":
            return (
                f"{death.get('queue')}: the service ended each time while it handled "
                "the message, a result was expected; see the log of the service, then "
                "reinject it"
            )
    return ""
