"""The dose before a tilt: what SerialEM measured, else that of the tilts before."""

import re
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from em_platform.cryoem.exposure import dose_before
from em_platform.cryoem.series_mdoc import read_series_mdoc

FRAMES, DOSE = 3, 0.5
MEASURED = "ExposureDose = 2\nPriorRecordDose = {}\n"


def test_the_dose_of_a_real_series_is_that_of_the_images_before(
    tmp_path: Path, shared_data: Path
) -> None:
    """SerialEM's own count (PriorRecordDose), and the sum where it does not say it."""
    text = (shared_data / "cryoem/cryocat/TS_017/017.mdoc").read_text()
    found = []
    for name, lines in (("a", text), ("b", re.sub(r"PriorRecordDose.*\n", "", text))):
        path = tmp_path / f"{name}.mdoc"
        path.write_text(lines)
        mdoc = read_series_mdoc(path)
        assert mdoc is not None and mdoc.is_series
        by_time = sorted(mdoc.tilts.values(), key=lambda tilt: tilt.before)
        assert [tilt.before for tilt in by_time] == [*range(60)]
        found.append([tilt.pre_exposure for tilt in by_time])
    counted, summed = (np.array(each, float) for each in found)
    # Before the first there was a little for focus and tracking.
    assert np.all(np.diff(counted) > 2)
    assert np.allclose(summed, counted, atol=0.03 * counted[-1])


@pytest.mark.parametrize(
    ("names", "mdocs", "wanted"),
    [
        # Tomography counts from 1, SerialEM from 0, its frames by a counter.
        (["P_1_001_0.00", "P_1_002_3.00"], {}, [0.0, 1.5]),
        (["P_1_002_3.00", "P_1_004_6.00"], {}, [1.5, 4.5]),
        (["TS_000_0.0", "TS_001_2.0", "TS_002_-2.0"], {}, [0.0, 1.5, 3.0]),
        # round3 1.1.3: between two tilts it has counted other specimens, too.
        (["s_10230_0.0"], {}, [0.0]),
        (["s_10993_0.0", "s_10995_2.0", "t_10994_0.0"], {}, [0.0, 1.5, 0.0]),
        (["s_00993_0.0", "s_00995_2.0"], {}, [0.0, 1.5]),
        (["s_993_0.0", "s_999_2.0"], {}, [0.0, 1.5]),
        (["P_[0.00]", "P_[3.00]"], {}, [None, None]),
        (["grid7_0001", "grid7_0002"], {}, [None, None]),
        # Names without an angle: by the series' mdoc alone, doses measured or not.
        (
            ["017_05", "017_04"],
            {
                "TS_3.mrc": "".join(
                    f"[ZValue = {i}]\nTiltAngle = {5 * i}\n"
                    f"SubFramePath = 017_0{5 - i}.mrc\n"
                    for i in range(2)
                )
            },
            [0.0, 1.5],
        ),
        (
            ["017_05", "017_04"],
            {
                "TS_3": "".join(
                    f"[ZValue = {i}]\nTiltAngle = {5 * i}\nExposureDose = 2.5\n"
                    f"SubFramePath = 017_0{5 - i}.mrc\n"
                    for i in range(2)
                )
            },
            [0.0, 2.5],
        ),
        # Its own mdoc, that of the series, and one of a camera without a dose.
        (
            ["TS_000_0.0", "TS_001_2.0"],
            {"TS_001_2.0.mrc": f"[FrameSet = 0]\n{MEASURED.format(2.3)}"},
            [0.0, 2.3],
        ),
        (
            ["TS_000_0.0", "TS_001_2.0"],
            {
                "TS": "[ZValue = 0]\nTiltAngle = 2.01\n"
                f"SubFramePath = X:\\s\\TS_001_2.0.mrc\n{MEASURED.format(2.25)}"
            },
            [0.0, 2.25],
        ),
        (
            ["TS_000_0.0", "TS_001_2.0"],
            {"TS_001_2.0.mrc": "[FrameSet = 0]\nExposureDose = 0\nPriorRecordDose = 0"},
            [0.0, 1.5],
        ),
    ],
)
def test_the_dose_before_a_tilt(
    tmp_path: Path, names: list[str], mdocs: dict[str, str], wanted: list[float | None]
) -> None:
    for name in names:
        with mrcfile.new(tmp_path / f"{name}.mrc") as file:
            file.set_data(np.zeros((FRAMES, 8, 8), np.int16))
    for name, text in mdocs.items():
        (tmp_path / f"{name}.mdoc").write_text(text)
    found = [
        dose_before(tmp_path / f"{name}.mrc", dose_per_frame=DOSE) for name in names
    ]
    assert found == [None if w is None else pytest.approx(w) for w in wanted]
