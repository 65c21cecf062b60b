"""Pauses grow, have an end, and differ."""

import pytest

from em_platform.acquisition.buffer import aloha_client as module
from em_platform.acquisition.buffer.aloha_client import Backoff, Rate
from em_platform.config import BufferSettings


def test_pauses_grow_up_to_the_longest_and_end_with_success(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [50.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    settings = BufferSettings(retry_s=1.0, retry_most_s=5.0)
    backoff = Backoff(settings, chance=lambda: 1.0)
    assert not backoff.waits("a")
    assert [backoff.fail("a") for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert backoff.waits("a")
    assert not backoff.waits("b")
    now[0] = 54.9
    assert backoff.waits("a")
    now[0] = 55.0
    assert not backoff.waits("a")
    backoff.succeed("a")
    assert backoff.fail("a") == 1.0


def test_pauses_are_between_half_and_all() -> None:
    settings = BufferSettings(retry_s=1.0)
    assert Backoff(settings, chance=lambda: 0.0).fail("a") == 0.5
    pauses = {Backoff(settings).fail("a") for _ in range(50)}
    assert len(pauses) > 40
    assert all(0.5 <= pause <= 1.0 for pause in pauses)


def test_the_rate_is_the_mean_of_the_last_five_seconds_in_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    rate = Rate()
    assert rate.bits_per_s() == 0
    rate.add(1000)
    now[0] = 104.0
    rate.add(500)
    assert rate.bits_per_s() == 8 * 1500 / 5
    now[0] = 106.0
    assert rate.bits_per_s() == 8 * 500 / 5
    now[0] = 110.0
    assert rate.bits_per_s() == 0
