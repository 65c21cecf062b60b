from em_platform.operator.parts import QcLight


def test_the_worst_word_is_shown_with_who_said_it() -> None:
    light = QcLight()
    light.receive("qc", "GOOD", "", now=1)
    light.receive("montage_fit", "STOP_AT_END", "an open seam", now=2)
    light.receive("qc", "GOOD", "", now=3)
    assert light.shown() == {
        "status": "STOP_AT_END",
        "reason": "an open seam",
        "by": "montage_fit",
        "since": 2,
        "seen_at": 3,
    }


def test_a_stop_holds_until_the_operator_goes_on() -> None:
    light = QcLight()
    light.receive("qc", "STOP_NOW", "dark", now=1)
    light.start_anew()
    assert light.shown() is None
    light.receive("qc", "GOOD", "", now=2)
    shown = light.shown()
    assert shown is not None
    assert (shown["status"], shown["since"]) == ("GOOD", 2)


def test_since_is_when_the_word_was_said_first() -> None:
    light = QcLight()
    for now in (1, 2, 3):
        light.receive("qc", "GOOD", "", now=now)
    shown = light.shown()
    assert shown is not None
    assert (shown["since"], shown["seen_at"]) == (1, 3)


def test_a_later_reason_replaces_the_former() -> None:
    light = QcLight()
    light.receive("qc", "STOP_AT_END", "3 tiles", now=1)
    light.receive("qc", "STOP_AT_END", "4 tiles", now=2)
    shown = light.shown()
    assert shown is not None
    assert shown["reason"] == "4 tiles"
