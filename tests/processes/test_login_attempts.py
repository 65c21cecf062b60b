import pytest

from em_platform.processes.login_attempts import LoginAttempts


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_ten_wrong_passwords_close_the_door_for_a_minute(clock: Clock) -> None:
    tries = LoginAttempts(clock)
    for number in range(10):
        assert tries.wait_s("10.0.0.7") == 0
        tries.add("10.0.0.7", f"guess {number}")
        clock.now += 1
    assert tries.wait_s("10.0.0.7") == 50
    assert tries.wait_s("10.0.0.8") == 0
    clock.now += 50
    assert tries.wait_s("10.0.0.7") == 0


def test_the_same_wrong_password_counts_once(clock: Clock) -> None:
    tries = LoginAttempts(clock)
    for _ in range(50):
        tries.add("10.0.0.7", "old")
    assert tries.wait_s("10.0.0.7") == 0


def test_many_addresses_guess_no_faster(clock: Clock) -> None:
    tries = LoginAttempts(clock)
    for number in range(300):
        tries.add(f"10.0.{number // 250}.{number % 250}", f"guess {number}")
    assert tries.wait_s("10.9.9.9") > 0


def test_the_addresses_of_one_network_are_one(clock: Clock) -> None:
    tries = LoginAttempts(clock)
    for number in range(10):
        tries.add(f"2001:db8::{number}", f"guess {number}")
    assert tries.wait_s("2001:db8::ff") > 0
    assert tries.wait_s("2001:db8:0:1::1") == 0
