"""The upload rate is that of the last five seconds."""

import pytest

from em_platform.acquisition.buffer import rate as module
from em_platform.acquisition.buffer.rate import Rate


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
