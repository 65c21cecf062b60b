"""Parameters of a stage, by their names of today and of before."""

import pytest
from pydantic import AliasChoices, Field

from em_platform.cryoem.stage import StageParameters


class Dose(StageParameters):
    dose_per_frame: float = Field(
        validation_alias=AliasChoices("dose_per_frame", "fm_dose")
    )


@pytest.mark.parametrize("name", ["dose_per_frame", "fm_dose"])
def test_a_parameter_is_taken_by_either_name(name: str) -> None:
    message = {name: "1.5", "mc_uuid": 7}
    assert Dose.model_validate(message).dose_per_frame == 1.5


def test_the_name_of_today_wins() -> None:
    message = {"fm_dose": 1.0, "dose_per_frame": 2.0}
    assert Dose.model_validate(message).dose_per_frame == 2.0
