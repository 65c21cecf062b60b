"""A redirect is followed to named hosts only, and never inwards or to http."""

import pytest

from em_platform.errors import SourceRefused
from em_platform.formats.redirects import check_redirect

PLACES = {
    "archive.example": ("8.8.8.8",),
    "files.archive.example": ("8.8.4.4",),
    "inner.archive.example": ("8.8.4.4", "10.0.0.7"),
    "institute.example": ("10.0.0.8",),
    "10.0.0.8": ("10.0.0.8",),
    "169.254.169.254": ("169.254.169.254",),
    "::1": ("::1",),
}
HOSTS = ("archive.example", "10.0.0.8", "169.254.169.254", "[::1]")


def resolve(host: str) -> tuple[str, ...]:
    return PLACES.get(host, ())


@pytest.mark.parametrize(
    ("at", "to"),
    [
        ("https://other.example/a", "https://other.example/b"),
        ("http://other.example/a", "https://other.example/b"),
        ("http://other.example/a", "https://other.example:443/b"),
        ("https://other.example/a", "https://files.archive.example/b"),
        ("https://other.example/a", "https://ARCHIVE.example/b"),
        ("https://institute.example/a", "https://10.0.0.8/b"),
        ("http://127.0.0.1:80/a", "http://127.0.0.1/b"),
    ],
)
def test_the_same_host_and_listed_ones_are_followed(at: str, to: str) -> None:
    check_redirect(at, to, who="ebi", hosts=HOSTS, resolve=resolve)


@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("https://evil.example/b", "the same host or one that is listed"),
        ("https://notarchive.example/b", "the same host or one that is listed"),
        ("https://archive.example.evil.example/", "the same host or one that is list"),
        ("https://archive.example@evil.example/", "the same host or one that is list"),
        ("https://evil.example\\@archive.example/", "an address of http or https"),
        ("http://archive.example/b", "expected https as before"),
        ("https://archive.example:99999/b", "an address of http or https"),
        ("file:///etc/passwd", "an address of http or https"),
        ("ftp://archive.example/b", "an address of http or https"),
        ("https://127.0.0.1:8401/", "the same host or one that is listed"),
        ("https://10.0.0.8/b", "no address inside of this network"),
        ("https://169.254.169.254/latest", "no address inside of this network"),
        ("https://[::1]/b", "no address inside of this network"),
        ("https://inner.archive.example/b", "no address inside of this network"),
    ],
)
def test_other_places_are_refused_in_one_sentence(to: str, why: str) -> None:
    with pytest.raises(SourceRefused, match=why) as caught:
        check_redirect(
            "https://archive.example/a",
            to,
            who="ebi",
            hosts=HOSTS,
            cure="correct it",
            resolve=resolve,
        )
    sentence = str(caught.value)
    assert sentence.startswith("ebi: archive.example sent us on to ")
    assert sentence.endswith("; correct it")


def test_another_port_of_the_same_host_is_another_service() -> None:
    with pytest.raises(SourceRefused, match="the same host or one that is listed"):
        check_redirect("http://127.0.0.1:8000/a", "http://127.0.0.1:8401/", who="ebi")
