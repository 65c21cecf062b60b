"""Settings of the live quality control; its limits are those of stitching.quality."""

from pydantic import Field

from em_platform.model import Model


class QcSettings(Model):
    """When single faults add up to a stop.

    The verdict is said every `period_s` and when it changes. A fault that `max_faulty`
    of the last `window` tiles show is persistent: the scope stops at the end.
    """

    period_s: float = Field(default=1.0, gt=0)
    window: int = Field(default=20, gt=0)
    max_faulty: int = Field(default=5, gt=0)
