"""What the scope is to do, and why; the worst of all holds until it is lifted."""

from enum import StrEnum

from em_platform.model import Model


class Status(StrEnum):
    """The statuses of `qc.status`, from good to worst."""

    GOOD = "GOOD"
    STOP_AT_END = "STOP_AT_END"
    STOP_NOW = "STOP_NOW"


_RANK = {status: rank for rank, status in enumerate(Status)}


class Verdict(Model):
    """What is said on `qc.status`; a stop has a sentence for the operator."""

    status: Status = Status.GOOD
    reason: str = ""

    def worse(self, other: "Verdict") -> "Verdict":
        """The worse of both; the earlier reason stays where they are equal."""
        return other if _RANK[other.status] > _RANK[self.status] else self


GOOD = Verdict()
