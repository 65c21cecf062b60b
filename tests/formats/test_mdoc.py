from datetime import datetime
from pathlib import Path

import pytest

from em_platform.errors import FormatError
from em_platform.formats.mdoc import read_mdoc_montage

TEXT = """PixelSpacing = 40
ImageFile = C:\\data\\stack.mrc
Montage = 1

[ZValue = 0]
PieceCoordinates = 0 0 0
StagePosition = 1.5 -2
Magnification = 135
DateTime = 25-Mar-2021  17:00:46

[ZValue = 1]
PieceCoordinates = 80 0 2
AlignedPieceCoords = 84 3 2
DateTime = 25-Mar-21  16:00:00

[MontSection = 0]
FullMontNumFrames = 2 1
"""


def test_pieces_lie_where_serialem_aligned_them() -> None:
    montage = read_mdoc_montage(TEXT, "a.mdoc")
    first, second = montage.pieces
    assert (first.x_px, first.y_px, first.section) == (0, 0, 0)
    assert (second.x_px, second.y_px, second.section) == (84, 3, 2)
    assert first.stage_nm == (-2000, 1500)
    assert second.stage_nm is None


def test_the_head_says_pixel_size_magnification_and_times() -> None:
    montage = read_mdoc_montage(TEXT, "a.mdoc")
    assert montage.pixel_nm == 4.0
    assert montage.magnification == 135
    assert montage.image_file == "stack.mrc"
    assert montage.started_at == datetime(2021, 3, 25, 16, 0)
    assert montage.ended_at == datetime(2021, 3, 25, 17, 0, 46)


def test_a_real_montage_has_its_62_pieces(shared_data: Path) -> None:
    path = shared_data / "mdoc/montage_section.mdoc"
    montage = read_mdoc_montage(path.read_text(), str(path))
    assert len(montage.pieces) == 62
    assert montage.image_file == "LMM.mrc"
    assert montage.pixel_nm == pytest.approx(65.6139)
    assert {piece.section for piece in montage.pieces} == {0}


@pytest.mark.parametrize("name", ["tilt_series.mdoc", "frame_set_single.mdoc"])
def test_other_mdocs_are_one_sentence(shared_data: Path, name: str) -> None:
    with pytest.raises(FormatError, match="no PieceCoordinates, expected a montage"):
        read_mdoc_montage((shared_data / "mdoc" / name).read_text(), name)


@pytest.mark.parametrize("text", ["rubbish", "[ZValue = 0]\nPieceCoordinates = a b c"])
def test_what_is_no_mdoc_is_one_sentence(text: str) -> None:
    with pytest.raises(FormatError, match=r"a\.mdoc: cannot be read as an mdoc"):
        read_mdoc_montage(text, "a.mdoc")
