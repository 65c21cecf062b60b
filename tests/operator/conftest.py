"""Messages as the services send them, and a board that receives them."""

import base64
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from pydantic import SecretStr

from em_platform.acquisition.frame_paths import tile_name
from em_platform.config import OperatorSettings, Settings
from em_platform.messaging.bus import Bus
from em_platform.messaging.topics import fitting
from em_platform.operator.api import application
from em_platform.operator.board import Board
from em_platform.operator.shared_board import SharedBoard

# As a proxy says where a request comes from: such a one is never of this account.
ELSEWHERE = {"X-Forwarded-For": "192.0.2.7"}
ACQUISITION = "m-0001-20261121t120000"


class Clock:
    """A time that the test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def of_tile() -> Callable[..., dict[str, Any]]:
    """Give the fields that all messages of a tile share, and more."""

    def fields(
        row: int,
        column: int,
        *,
        acquisition: str = ACQUISITION,
        montage: str = "m-0001",
        **more: Any,
    ) -> dict[str, Any]:
        return {
            "tile_id": tile_name(acquisition, row, column),
            "montage_id": montage,
            "row": row,
            "column": column,
            "overlap": 8,
            **more,
        }

    return fields


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def receive(board: Board) -> Callable[..., None]:
    """Hand the board a message that fits its topic."""

    def publish(
        topic: str, *, service: str = "coordinator", now: float = 100.0, **fields: Any
    ) -> None:
        body = fitting(topic, fields).model_dump(mode="json")
        headers = {"service": service, "hostname": "here", "pid": "7", "topic": topic}
        board.receive(topic, body, headers, now)

    return publish


@pytest.fixture
def jpeg() -> str:
    """A small picture as it is sent: base64."""
    coded = cv2.imencode(".jpg", np.full((8, 8), 90, np.uint8))[1]
    return base64.b64encode(coded.tobytes()).decode()


@pytest.fixture
def search() -> Callable[..., dict[str, Any]]:
    """Give what was found against one neighbour in tile.template_matches."""

    def found(position: str, *, good: int, tried: int) -> dict[str, Any]:
        one = {
            "query_point": [0, 0],
            "search_point": [0, 0],
            "offset": [0, 0],
            "distance": 0,
            "rotation": 0,
            "maxVal": 0.9,
            "minVal": 0,
            "expected_offset_in_crop": [0, 0],
            "maxLoc": [0, 0],
            "matched_pos_img2": [0, 0],
            "matched_center_img2": [0, 0],
        }
        matches = [one | {"good": number < good} for number in range(tried)]
        return {"row": 0, "column": 0, "position": position, "matches": matches}

    return found


@pytest.fixture
def settings(rig_settings: Settings) -> Settings:
    return rig_settings


@pytest.fixture
def bus(settings: Settings) -> Iterator[Bus]:
    with Bus(settings.broker, "operator", send_timeout_s=1.0) as bus:
        bus.connect(5)
        yield bus


@pytest.fixture
def shared(bus: Bus) -> SharedBoard:
    shared = SharedBoard(bus, control_timeout_s=60)
    bus.subscribe_many(shared.topics, shared.receive)
    return shared


@pytest.fixture
def open_page(
    shared: SharedBoard, settings: Settings, serve_app: Callable[..., str]
) -> Iterator[Callable[..., httpx.Client]]:
    """Serve the page, and give a browser of this account.

    With a password it is one of another computer, that is not logged in.
    """
    with ExitStack() as stack:

        def serve(password: str = "", proxies: tuple[str, ...] = ()) -> httpx.Client:
            named = OperatorSettings(token=SecretStr(password))
            acquisition = settings.acquisition.model_copy(update={"operator": named})
            own = settings.model_copy(update={"acquisition": acquisition})
            page = application(shared, own, about={})
            url = serve_app(page, proxies=proxies)
            headers = ELSEWHERE if password else {}
            return stack.enter_context(httpx.Client(base_url=url, headers=headers))

        yield serve
