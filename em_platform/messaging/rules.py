"""What one broker asks of its clients, and what it counts."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Limits and login of the broker; without a username any client may connect."""

    username: str
    password: str
    heart_beat_s: float
    login_s: float
    queue_limit: int
    work_queue_limit: int
    frame_limit_bytes: int
    server: str


@dataclass(slots=True)
class Counters:
    """What has happened at one broker since it was started."""

    clients: int = 0
    refused: int = 0
    received: int = 0
    delivered: int = 0
    dropped: int = 0
