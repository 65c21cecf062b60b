"""Marks, folds and labels: the same in every window that holds a pixel."""

import numpy as np
import pytest

from em_platform.simulation.specimen.classes import CLASSES, FOLD
from em_platform.simulation.specimen.cutting import folds_of
from em_platform.simulation.specimen.tissue import tissue, tissue_labels

CUT = {"seed": 3, "knife_marks": 4.0, "folds": 16.0}


@pytest.fixture(scope="module")
def folded() -> tuple[int, int]:
    """World pixel of the corner of a window with a fold in it."""
    cover, _ = folds_of(
        (2048, 2048), 0, 0, scale=4.0, seed=3, section=0, many=16.0
    )  # at 16 nm a pixel, to look at 33 um
    y, x = np.argwhere(cover[128:-128, 128:-128] > 0.9)[0] + 128
    return 4 * int(y) - 128, 4 * int(x) - 128


def test_overlapping_windows_agree_in_every_pixel(folded: tuple[int, int]) -> None:
    y, x = folded
    one = tissue(y, x, height=256, width=256, **CUT)
    other = tissue(y + 101, x + 57, height=256, width=256, **CUT)
    assert np.array_equal(one[101:, 57:], other[:155, :199])
    labels = tissue_labels(y, x, height=256, width=256, seed=3, folds=16.0)
    others = tissue_labels(y + 101, x + 57, height=256, width=256, seed=3, folds=16.0)
    for mine, theirs in zip(labels, others, strict=True):
        assert np.array_equal(mine[101:, 57:], theirs[:155, :199])


def test_a_fold_is_dark_and_in_one_section_only(folded: tuple[int, int]) -> None:
    y, x = folded
    window = {"height": 256, "width": 256, "seed": 3}
    plain, cut = tissue(y, x, **window), tissue(y, x, folds=16.0, **window)
    cells, classes = tissue_labels(y, x, folds=16.0, **window)
    under = classes == FOLD
    assert under.any()
    assert (cells[under] == 0).all()
    # 0.75 at most: two layers let through less than one
    assert cut[under].mean() < 0.75 * plain[under].mean()
    next_one = tissue_labels(y, x, section=1, folds=16.0, **window)[1]
    assert not np.array_equal(next_one == FOLD, under)


def test_a_mark_of_the_knife_goes_on_in_the_next_section() -> None:
    window = {"height": 16, "width": 2500, "seed": 3}  # 10 um across
    found = []
    for section in (0, 1, 400):
        cut = tissue(0, 0, section=section, knife_marks=4.0, **window)
        found.append(cut - tissue(0, 0, section=section, **window))
    assert np.abs(found[0]).max() > 5
    alike = np.corrcoef(found[0].ravel(), found[1].ravel())[0, 1]
    assert alike > 0.9


def test_the_settings_without_marks_give_the_tissue_as_it_was() -> None:
    plain = tissue(7, 9, height=64, width=64, seed=3)
    zero = tissue(7, 9, height=64, width=64, seed=3, knife_marks=0.0, folds=0.0)
    assert np.array_equal(plain, zero)


def test_labels_are_those_of_what_is_drawn() -> None:
    grey = tissue(0, 500, height=512, width=512, seed=3)
    cells, classes = tissue_labels(0, 500, height=512, width=512, seed=3)
    mean = {
        name: grey[classes == number].mean()
        for number, name in enumerate(CLASSES)
        if (classes == number).sum() > 200
    }
    assert {"membrane", "mitochondrion", "myelin", "vesicle"} <= set(mean)
    for dark in ("membrane", "mitochondrion", "myelin", "synapse"):
        assert mean[dark] < mean["cytoplasm"] - 25, dark
    # A border between two cells is membrane or the density beside it.
    border = cells[:, 1:] != cells[:, :-1]
    beside = np.isin(classes[:, 1:][border], [2, 5, 7])
    assert beside.mean() > 0.99


def test_cells_go_on_from_section_to_section() -> None:
    one, two, distant = (
        tissue_labels(0, 0, height=256, width=256, section=z, seed=3)[0]
        for z in (0, 1, 400)
    )
    assert (one == two).mean() > 0.95
    assert (one == distant).mean() < 0.5
