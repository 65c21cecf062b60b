"""The page's commands: each needs control, but for the two that stop."""

import math
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Header, Request
from pydantic import Field, model_validator

from em_platform.acquisition.roi import RoiFields, roi_of
from em_platform.config import Settings
from em_platform.errors import ConfigError, ControlRefused
from em_platform.model import Model, Size
from em_platform.operator.modes import (
    FINISHED,
    SETUP,
    UNFINISHED,
    WAITS,
    Routine,
    in_queue,
)
from em_platform.operator.shared_board import SharedBoard


class RoiForm(Model):
    """A rectangle to image: so many rows and columns, or so wide and high.

    The centre lies on the stage, as (x, y) from the middle of the aperture. Only a
    rectangle by size can be turned.
    """

    montage_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=120)
    roi_name: str = Field(default="", max_length=200)
    aperture_id: int = Field(ge=0)
    center_x_um: float = 0.0
    center_y_um: float = 0.0
    rows: int | None = Field(default=None, gt=0, le=2000)
    columns: int | None = Field(default=None, gt=0, le=2000)
    width_um: float | None = Field(default=None, gt=0)
    height_um: float | None = Field(default=None, gt=0)
    angle_deg: float = Field(default=0.0, ge=-360, le=360)
    overlap_percent: int | None = Field(default=None, ge=0, lt=100)
    kind: Literal["montage", "lens_correction"] = "montage"
    calibrations: tuple[str, ...] = ()
    queue_position: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        by_tiles = self.rows is not None and self.columns is not None
        by_size = self.width_um is not None and self.height_um is not None
        if by_tiles == by_size:
            raise ValueError("give rows and columns, or width and height")
        if by_tiles and self.angle_deg:
            raise ValueError("an angle goes with width and height, not with rows")
        unknown = sorted(set(self.calibrations) - set(SETUP))
        if unknown:
            raise ValueError(f"no calibration is called {', '.join(unknown)}")
        return self


def create_fields(
    form: RoiForm, settings: Settings, *, frame: Size | None, pending: int
) -> RoiFields:
    """The body of `roi.create`; it goes to the end of the queue where none is given.

    Parameters
    ----------
    frame
        Size of the camera's frames, None for that of the settings.
    pending
        How many regions wait already.
    """
    if form.rows is not None and form.columns is not None:
        fields = roi_of(
            form.montage_id,
            form.aperture_id,
            form.rows,
            form.columns,
            None if form.overlap_percent is None else form.overlap_percent / 100,
            settings,
            frame=frame,
            center_nm=(form.center_x_um * 1000, form.center_y_um * 1000),
        )
    else:
        fields = _by_size(form)
    # for the coordinator none would mean the next
    position = pending if form.queue_position is None else form.queue_position
    return {
        **fields,
        "roi_name": form.roi_name or None,
        "acquisition_type": form.kind,
        "calibrations": dict.fromkeys(form.calibrations, True),
        "queue_position": position,
    }


def _by_size(form: RoiForm) -> RoiFields:
    if form.width_um is None or form.height_um is None:
        raise ConfigError("roi: it has no size; give width and height")
    x, y = form.center_x_um * 1000, form.center_y_um * 1000
    half_x, half_y = form.width_um * 500, form.height_um * 500  # half, in nm
    corners = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return {
        "montage_id": form.montage_id,
        "aperture_id": form.aperture_id,
        "vertices": [{"x": x + i * half_x, "y": y + j * half_y} for i, j in corners],
        "center": {"x": x, "y": y},
        "rotation_angle": math.radians(form.angle_deg),
        "overlap": form.overlap_percent,
    }


Token = Annotated[str, Header(alias="X-Control-Token")]


class Taking(Model):
    """Who wants control, and whether from another who has it."""

    name: str = Field(min_length=1, max_length=60, pattern=r"\S")
    take_over: bool = False


class RunCommand(Model):
    """A command of ui.run that needs control."""

    command: Literal["start", "pause", "resume", "retry", "cancel"]


class StopCommand(Model):
    """A command of ui.run available to all users of the page."""

    when: Literal["now", "at_end"]


class SetupCommand(Model):
    """A routine of ui.setup."""

    routine: Routine


class QueueChange(Model):
    """Montages to remove from the queue, or all that wait in their new order."""

    remove: tuple[str, ...] = ()
    reorder: tuple[str, ...] = ()


class LoadForm(Model):
    """A section whose regions are to come from the database into the queue."""

    specimen_id: str = Field(min_length=1, max_length=200)
    section_id: str = Field(min_length=1, max_length=200)
    aperture_id: int | None = Field(default=None, ge=0)
    queue_position: int | None = Field(default=None, ge=0)


def control_routes(shared: SharedBoard) -> APIRouter:
    """Take, keep and give up control."""
    routes = APIRouter(prefix="/api/control")

    @routes.post("")
    def take(taking: Taking) -> dict[str, str]:
        token = shared.control.take(taking.name.strip(), take_over=taking.take_over)
        return {"token": token}

    @routes.post("/heartbeat")
    def heartbeat(token: Token = "") -> dict[str, str]:
        return {"holder": shared.control.check(token)}

    @routes.post("/release")
    def release(token: Token = "") -> dict[str, str]:
        shared.control.release(token)
        return {"holder": ""}

    return routes


def run_routes(shared: SharedBoard) -> APIRouter:
    """Start, pause, stop and set up."""
    routes = APIRouter(prefix="/api")

    @routes.post("/stop")
    def stop(command: StopCommand, request: Request) -> dict[str, str]:
        # needs no control: whoever sees trouble may stop it
        word = "abort_now" if command.when == "now" else "abort_at_end"
        who = request.client.host if request.client else "unknown"
        shared.log("order", f"Stop {command.when.replace('_', ' ')} pressed at {who}")
        shared.send("ui.run", **{word: True})
        return {"sent": word}

    @routes.post("/run")
    def run(command: RunCommand, token: Token = "") -> dict[str, str]:
        shared.control.check(token)
        shared.refuse_useless(command.command)
        shared.send("ui.run", **{command.command: True})
        return {"sent": command.command}

    @routes.post("/setup")
    def setup(command: SetupCommand, token: Token = "") -> dict[str, str]:
        shared.control.check(token)
        shared.refuse_useless(command.routine)
        shared.send("ui.setup", **{command.routine: True})
        return {"sent": command.routine}

    return routes


def queue_routes(shared: SharedBoard, settings: Settings) -> APIRouter:
    """Fill and order the queue of regions."""
    routes = APIRouter(prefix="/api")

    @routes.post("/roi")
    def create(form: RoiForm, token: Token = "") -> dict[str, str]:
        shared.control.check(token)
        with shared.locked() as board:
            queue = board.parts.get("queue")
            camera = board.parts.get("camera.status")
        if form.montage_id in in_queue(queue, *UNFINISHED):
            raise ControlRefused(
                f"roi {form.montage_id}: it is in the queue already, a new id was "
                "expected; choose another or remove it first",
                senseless=True,
            )
        frame = camera and Size(height_px=camera["height"], width_px=camera["width"])
        pending = len(in_queue(queue, *WAITS))
        fields = create_fields(form, settings, frame=frame, pending=pending)
        shared.send("roi.create", **fields)
        return {"sent": form.montage_id}

    @routes.post("/roi/load")
    def load(form: LoadForm, token: Token = "") -> dict[str, str]:
        shared.control.check(token)
        shared.send("roi.load", **form.model_dump())
        return {"sent": form.section_id}

    @routes.post("/queue")
    def change(wanted: QueueChange, token: Token = "") -> dict[str, str]:
        shared.control.check(token)
        with shared.locked() as board:
            queue = board.parts.get("queue")
        _check_change(
            wanted,
            waiting=in_queue(queue, *WAITS),
            removable=in_queue(queue, *WAITS, *FINISHED),
        )
        fields = wanted.model_dump(exclude_defaults=True)
        shared.send("roi.queue.update", **{k: list(v) for k, v in fields.items()})
        return {"sent": "queue"}

    return routes


def _check_change(
    wanted: QueueChange, *, waiting: list[str], removable: list[str]
) -> None:
    if not wanted.remove and not wanted.reorder:
        raise ControlRefused(
            "queue: nothing was to be changed; say remove or reorder", senseless=True
        )
    unknown = sorted(set(wanted.remove) - set(removable))
    if unknown:
        raise ControlRefused(
            f"queue: {', '.join(unknown)} neither waits there nor is finished, so "
            "it cannot be removed; look at the queue again",
            senseless=True,
        )
    if wanted.reorder and sorted(wanted.reorder) != sorted(waiting):
        raise ControlRefused(
            "queue: the new order does not hold exactly what waits there now; look at "
            "the queue again",
            senseless=True,
        )
