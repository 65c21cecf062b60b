"""Bodies of messages, and a way to publish again and again, for several rooms."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TILE = {
    "tile_id": "t1",
    "montage_id": "m",
    "row": 0,
    "column": 0,
    "overlap": 8,
    "path": "/t1.tiff",
}
CAMERA = {
    "exposure": 50_000.0,
    "gain": 25.0,
    "width": 96,
    "height": 96,
    "temp": 20.0,
    "target_temp": 20.0,
    "device_name": "camera",
    "device_model_id": "CB500",
    "device_sn": "12345",
    "bit_depth": 8,
}


@contextmanager
def repeated(act: Callable[[], object], every_s: float) -> Iterator[None]:
    """Call `act` again and again, as a service publishes its status."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(every_s):
            act()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
