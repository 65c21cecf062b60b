"""Messages: fan-out of the embedded broker beside ActiveMQ, latency of the bus.

Two subscribers hear 304-byte messages as fast as the broker gives them. The clients are
bare sockets, so that the broker is what is measured; CPU seconds are the broker's.
ActiveMQ is Debian's (`apt-get install activemq`); it is left out where it is missing.
"""

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from timing import Cost, arguments, finish, measure, report

from em_platform.config import BrokerSettings, load_settings
from em_platform.messaging.bus import Bus
from em_platform.messaging.login import login_of
from em_platform.processes import free_port, listens

ACTIVEMQ = Path("/usr/share/activemq/bin/activemq.jar")
BODY = b"x" * 304
WANTED_PER_S = 5000
WANTED_LATENCY_MS = 5.0


@contextmanager
def running(command: list[str], port: int) -> Iterator[psutil.Process]:
    """A broker that listens at `port`."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not listens("127.0.0.1", port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not listen at {port}")
            time.sleep(0.1)
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def embedded(port: int) -> list[str]:
    return [sys.executable, "-m", "em_platform", "broker", "--port", str(port)]


def activemq(folder: Path, port: int) -> list[str]:
    schema = "http://www.springframework.org/schema/beans"
    core = "http://activemq.apache.org/schema/core"
    (folder / "activemq.xml").write_text(
        f'<beans xmlns="{schema}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
        f' xsi:schemaLocation="{schema} {schema}/spring-beans.xsd'
        f' {core} {core}/activemq-core.xsd">'
        f'<broker xmlns="{core}" brokerName="em" useJmx="false" persistent="false"'
        f' dataDirectory="{folder}"><transportConnectors><transportConnector'
        f' name="stomp" uri="stomp://127.0.0.1:{port}"/></transportConnectors>'
        "</broker></beans>"
    )
    places = {"home": "/usr/share/activemq"}
    places |= dict.fromkeys(("base", "conf", "data", "classpath"), str(folder))
    return [
        *("java", "-Xms64M", "-Xmx256M", f"-Djava.io.tmpdir={folder}"),
        *(f"-Dactivemq.{name}={place}" for name, place in places.items()),
        *("-jar", str(ACTIVEMQ), "start", f"xbean:file:{folder}/activemq.xml"),
    ]


def broker_at(port: int) -> BrokerSettings:
    return load_settings(overrides={"broker.port": str(port)}).broker


def open_client(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    username, password = login_of(broker_at(port))
    head = f"CONNECT\naccept-version:1.2\nhost:127.0.0.1\nlogin:{username}\n"
    client.sendall(f"{head}passcode:{password}\n\n\0".encode())
    read_frames(client, 1)
    return client


def read_frames(client: socket.socket, count: int) -> None:
    while count > 0:
        received = client.recv(1 << 18)
        if not received:
            raise RuntimeError("the broker closed the connection")
        count -= received.count(b"\0")


def fan_out(port: int, broker: psutil.Process, *, count: int) -> Cost:
    """Cost to the broker of `count` messages to two subscribers."""
    with ExitStack() as stack:
        clients = [stack.enter_context(open_client(port)) for _ in range(3)]
        for client in clients[:2]:
            client.sendall(
                b"SUBSCRIBE\nid:0\ndestination:/topic/tile.raw\nreceipt:r\n\n\0"
            )
            read_frames(client, 1)
        head = b"SEND\ndestination:/topic/tile.raw\ncontent-length:304\n\n"
        batch = (head + BODY + b"\0") * 100
        readers = [
            threading.Thread(target=read_frames, args=(client, count))
            for client in clients[:2]
        ]
        before, began = broker.cpu_times(), time.perf_counter()
        for reader in readers:
            reader.start()
        for _ in range(count // 100):
            clients[2].sendall(batch)
        for reader in readers:
            reader.join()
        wall_s, after = time.perf_counter() - began, broker.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    memory_mb = broker.memory_info().rss / 1e6
    return Cost(cpu_s=cpu_s, wall_s=wall_s, peak_mb=memory_mb)


def latency_ms(port: int, *, count: int) -> list[float]:
    """How long single messages take from one bus's call to another's handler."""
    settings = broker_at(port)
    arrived = threading.Semaphore(0)
    found = []

    def hear(_: Any, __: Any) -> None:
        arrived.release()

    with Bus(settings, "sender") as sender, Bus(settings, "receiver") as receiver:
        sender.connect()
        receiver.connect()
        receiver.subscribe("qc.status", hear)
        for _ in range(count):
            began = time.perf_counter()
            sender.publish("qc.status", status="GOOD")
            arrived.acquire()
            found.append((time.perf_counter() - began) * 1e3)
            time.sleep(0.002)
    return found


def main() -> int:
    given = arguments(__doc__, repeats=3)
    count = 5000 if given.quick else 20_000
    with ExitStack() as stack:
        contenders: dict[str, Callable[[], Cost]] = {}
        # The broker's token is kept in its home.
        os.environ["EM_HOME"] = stack.enter_context(tempfile.TemporaryDirectory())
        port = free_port("127.0.0.1")
        ours = stack.enter_context(running(embedded(port), port))
        contenders["embedded broker"] = partial(fan_out, port, ours, count=count)
        if ACTIVEMQ.is_file() and shutil.which("java"):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            peer_port = free_port("127.0.0.1")
            peer = stack.enter_context(running(activemq(folder, peer_port), peer_port))
            contenders["ActiveMQ"] = partial(fan_out, peer_port, peer, count=count)
        else:
            print("ActiveMQ is not installed and is left out")
        costs = measure(contenders, repeats=1 if given.quick else given.repeats)
        times = sorted(latency_ms(port, count=200 if given.quick else 1000))
    accuracy = {
        f"{name}, messages/s to two subscribers each": count / cost.wall_s
        for name, cost in costs.items()
    }
    accuracy |= {
        "bus to bus, median ms": statistics.median(times),
        "bus to bus, 95 % ms": times[int(len(times) * 0.95)],
    }
    found = report(f"fan-out of {count} messages", costs, accuracy=accuracy)
    kept = count / costs["embedded broker"].wall_s >= WANTED_PER_S
    kept = kept and statistics.median(times) <= WANTED_LATENCY_MS
    found["passed"] = found["passed"] and kept
    print(
        f"  wanted: >= {WANTED_PER_S} messages/s, <= {WANTED_LATENCY_MS:g} ms: {kept}"
    )
    return finish([found], path=given.json)


if __name__ == "__main__":
    sys.exit(main())
