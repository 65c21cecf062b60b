import base64

from em_platform.operator.parts import Pictures, decoded


def test_a_picture_is_taken_with_and_without_its_address(jpeg: str) -> None:
    plain, addressed = decoded(jpeg), decoded(f"data:image/jpeg;base64,{jpeg}")
    assert plain is not None
    assert plain == addressed
    assert plain.media_type == "image/jpeg"


def test_what_is_no_picture_is_not_taken() -> None:
    script = base64.b64encode(b"<svg onload='alert(1)'>").decode()
    for text in ("", "no picture", script):
        assert decoded(text) is None


def test_the_oldest_go_when_all_are_too_large(jpeg: str) -> None:
    size = len(base64.b64decode(jpeg))
    pictures = Pictures(most_bytes=2 * size)
    for name in ("a", "b", "c"):
        assert pictures.put(name, jpeg)
    assert pictures.get("a") is None
    assert pictures.get("c") is not None
