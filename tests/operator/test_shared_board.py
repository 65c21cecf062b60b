import pytest

from em_platform.errors import ControlRefused
from em_platform.operator.shared_board import Control
from tests.operator.conftest import Clock


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def control(clock: Clock, messages: list[str]) -> Control:
    return Control(90, clock=clock, changed=messages.append)


def test_only_the_holder_may_act(control: Control) -> None:
    with pytest.raises(ControlRefused, match="it is free"):
        control.check("")
    token = control.take("Ada")
    assert control.check(token) == "Ada"
    with pytest.raises(ControlRefused, match="Ada has it, this page has not"):
        control.check("another")


def test_control_is_not_taken_by_accident(control: Control) -> None:
    first = control.take("Ada")
    with pytest.raises(ControlRefused, match="Ada has it, it was expected to be free"):
        control.take("Bob")
    second = control.take("Bob", take_over=True)
    assert control.check(second) == "Bob"
    with pytest.raises(ControlRefused, match="Bob has it"):
        control.check(first)


def test_it_ends_without_a_heartbeat(control: Control, clock: Clock) -> None:
    token = control.take("Ada")
    clock.now += 80
    control.check(token)
    clock.now += 80
    control.check(token)
    clock.now += 91
    with pytest.raises(ControlRefused, match="it is free"):
        control.check(token)
    assert control.take("Bob")


def test_each_change_is_reported_to_all(
    control: Control, clock: Clock, messages: list[str]
) -> None:
    control.release(control.take("Ada"))
    control.take("Bob")
    control.take("Eve", take_over=True)
    clock.now += 100
    control.expire()
    assert messages == [
        "Ada has control",
        "Ada released control",
        "Bob has control",
        "Eve took control over from Bob",
        "Eve lost control: their page was silent for 100 s",
    ]


def test_the_token_is_shown_to_nobody(control: Control) -> None:
    token = control.take("Ada")
    assert token not in str(control.shown())
    assert control.shown()["holder"] == "Ada"
