"""The page's commands: each needs control, but for the two that stop."""

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Request
from pydantic import Field

from em_platform.config import Settings
from em_platform.errors import ControlRefused
from em_platform.model import Model, Size
from em_platform.operator.modes import (
    FINISHED,
    UNFINISHED,
    WAITS,
    Routine,
    in_queue,
)
from em_platform.operator.roi_form import RoiForm, create_fields
from em_platform.operator.shared_board import SharedBoard

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
