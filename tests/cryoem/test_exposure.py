"""The dose before a tilt: what SerialEM measured, else that of the tilts before."""

import re
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from em_platform.config.cryoem import SessionSettings
from em_platform.cryoem.series_mdoc import read_series_mdoc
from em_platform.cryoem.sessions.exposure import dose_before
from em_platform.cryoem.sessions.ledger import Progress, SessionLedger

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
        (["s_10993_0.0", "s_10995_2.0"], {}, [0.0, 3.0]),
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
    folder = tmp_path / "sessions/grid1"
    folder.mkdir(parents=True)
    for name in names:
        with mrcfile.new(folder / f"{name}.mrc") as file:
            file.set_data(np.zeros((FRAMES, 8, 8), np.int16))
    for name, text in mdocs.items():
        (folder / f"{name}.mdoc").write_text(text)
    own = SessionSettings(dose_per_frame=DOSE)
    with SessionLedger(tmp_path / "sessions", tmp_path / "l.sqlite") as ledger:
        progress = Progress(
            is_corrected=lambda _: True,
            has_particles=lambda _: False,
            is_busy=lambda _: False,
        )
        ledger.look(
            1e12, settle_s=0, quiet_s=0, progress=progress, picks_particles=bool
        )
        movies = {m.path.stem: m for m in ledger.movies("grid1")}
        found = [dose_before(movies[name], own, ledger) for name in names]
    assert found == [None if w is None else pytest.approx(w) for w in wanted]
