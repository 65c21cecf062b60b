"""The coordinator's loop does one thing after the other."""

import logging
import threading
import time
from collections.abc import Iterator

import pytest

from em_platform.acquisition.machines.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    thread = threading.Thread(target=made.run)
    thread.start()
    yield made
    made.stop()
    thread.join(5)
    assert not thread.is_alive()


def test_acts_of_many_threads_are_done_in_one(loop: Loop) -> None:
    found: list[int] = []
    threads: list[threading.Thread] = []
    done = threading.Event()
    for _ in range(4):
        threads.append(
            threading.Thread(
                target=lambda: [
                    loop.put(lambda: found.append(threading.get_ident()))
                    for _ in range(100)
                ]
            )
        )
        threads[-1].start()
    for thread in threads:
        thread.join()
    loop.put(done.set)
    assert done.wait(10)
    assert len(found) == 400
    assert len(set(found)) == 1


def test_timers_fire_in_the_order_of_their_times(loop: Loop) -> None:
    found: list[str] = []
    done = threading.Event()

    def begin() -> None:
        loop.call_later(0.10, lambda: found.append("late"))
        loop.call_later(0.02, lambda: found.append("early"))
        loop.call_later(0.06, lambda: found.append("never")).cancel()
        loop.call_later(0.15, done.set)

    loop.put(begin)
    assert done.wait(10)
    assert found == ["early", "late"]


def test_a_timer_that_is_due_waits_for_messages_that_came_before(loop: Loop) -> None:
    found: list[str] = []
    done = threading.Event()

    def begin() -> None:
        timer = loop.call_later(0.0, lambda: found.append("timer"))
        loop.put(timer.cancel)  # the answer, on its way before the time was out
        loop.put(done.set)
        time.sleep(0.05)

    loop.put(begin)
    assert done.wait(10)
    assert found == []


def test_an_error_does_not_end_the_loop(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    done = threading.Event()

    def fail() -> None:
        raise ValueError("a fault")

    with caplog.at_level(logging.ERROR):
        loop.put(fail)
        loop.put(done.set)
        assert done.wait(10)
    assert loop.failed == 1
    assert "a fault" in caplog.text
