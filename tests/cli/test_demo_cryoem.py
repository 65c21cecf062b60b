"""The session of `em-platform demo cryoem`: as a microscope would leave it."""

import time
from pathlib import Path

import pytest

from em_platform.cli.demo_cryoem import demo_plan, write_session
from em_platform.config import load_settings
from em_platform.cryoem.sessions.ledger import TILT_MOVIE
from em_platform.cryoem.sessions.processing import open_sessions
from em_platform.cryoem.sessions.tomography import expected_tilts
from em_platform.cryoem.sessions.truth import defocus_truth, motion_truth


def test_its_movies_move_and_are_defocused_as_its_truth_says(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EM_CRYOEM__SETTLE_S", "0")
    plan = demo_plan(home / "plan")
    few = plan.tilts.model_copy(update={"first_deg": -30.0, "step_deg": 30, "tilts": 3})
    plan = plan.model_copy(update={"tilts": few})
    write_session(home / "cryoem/demo", plan, simulations=home / "simulations")
    with open_sessions(load_settings()) as sessions:
        sessions.look(time.time() + 1)
        found = sessions.ledger.arrivals(0, most=10)
        assert [each.kind for each in found] == [TILT_MOVIE] * 3
        assert expected_tilts(sessions, "demo~demo-0000") == 3
        truth = sessions.truth("demo")
        assert truth is not None
        assert {f"demo~{stem}" for stem in truth.movies} == {each.key for each in found}
        assert (sessions.folder / "demo" / truth.samples["demo-0000"]).is_file()
        key = "demo~demo-0000_000_0.0"
        own = sessions.movie_truth(key)
        [motion] = motion_truth(sessions.correct(key).result, own)
        [defocus] = defocus_truth(sessions.fit_ctf(key).result, own)
    assert motion.passed, motion.sentence
    assert defocus.passed, defocus.sentence
