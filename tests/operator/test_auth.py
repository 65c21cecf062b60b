"""Who may see the page, and how often a password may be guessed."""

import hashlib
import hmac
from collections.abc import Callable

import httpx

from em_platform.config import AcquisitionSettings, BrokerSettings, Settings
from em_platform.processes.gate import is_loopback, known_names
from tests.operator.conftest import ELSEWHERE


def test_a_page_beyond_this_computer_asks_for_the_password(
    open_page: Callable[..., httpx.Client],
) -> None:
    page = open_page("open sesame")
    assert page.get("/").headers["location"] == "/login"
    assert page.get("/login").status_code == 200
    assert page.get("/health").status_code == 200
    for path in ("/api/state", "/api/events", "/page/style.css"):
        assert page.get(path).status_code == 401
    assert page.post("/api/stop", json={"when": "now"}).status_code == 401
    wrong = page.post("/api/login", json={"password": "guess"})
    assert wrong.status_code == 401
    assert "not that of the operator's page" in wrong.json()["error"]
    bearer = {"Authorization": "Bearer open sesame"}
    assert page.get("/api/state", headers=bearer).status_code == 200
    right = page.post("/api/login", json={"password": "open sesame"})
    assert "HttpOnly" in right.headers["set-cookie"]
    assert "open sesame" not in right.headers["set-cookie"]
    assert page.get("/api/state").status_code == 200


def test_guesses_are_limited_and_who_is_logged_in_may_still_stop(
    open_page: Callable[..., httpx.Client],
) -> None:
    page = open_page("open sesame")
    page.post("/api/login", json={"password": "open sesame"}).raise_for_status()
    address = str(page.base_url)

    def bearer(text: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {text}", **ELSEWHERE}
        return httpx.get(f"{address}/api/state", headers=headers)

    def login(text: str) -> httpx.Response:
        return httpx.post(
            f"{address}/api/login", json={"password": text}, headers=ELSEWHERE
        )

    # An old password that is sent again and again guesses nothing.
    assert {bearer("old").status_code for _ in range(20)} == {401}
    assert {bearer(f"guess {n}").status_code for n in range(8)} == {401}
    assert login("ten").status_code == 401
    for right in (bearer("open sesame"), login("open sesame")):
        assert right.status_code == 429
        assert "too many wrong passwords" in right.json()["error"]
    assert page.post("/api/stop", json={"when": "now"}).status_code == 200


def test_the_cookie_goes_over_tls_alone_where_the_page_does(
    open_page: Callable[..., httpx.Client],
) -> None:
    """round3 4.1: any program of this computer was believed to end TLS."""
    body = {"password": "open sesame"}
    for proxies, is_secure in (((), False), (("127.0.0.0/8",), True)):
        page = open_page("open sesame", proxies)
        for headers in ({}, {"X-Forwarded-Proto": "https"}):
            cookie = page.post("/api/login", json=body, headers=headers).headers
            over_tls = bool(headers) and is_secure
            assert ("Secure" in cookie["set-cookie"]) == over_tls


def test_where_a_guess_comes_from_is_believed_of_trusted_proxies_alone(
    open_page: Callable[..., httpx.Client],
) -> None:
    """round3 4.1: whoever guessed chose the address that was counted."""
    answers = {}
    for proxies in ((), ("127.0.0.1",)):
        page = open_page("open sesame", proxies)
        for number in range(12):
            guess = {
                "Authorization": f"Bearer {number}",
                "X-Forwarded-For": f"192.0.2.{number}",
            }
            answers[proxies] = page.get("/api/state", headers=guess).status_code
        # Not even with an address of this computer is it of this account.
        own = {"X-Forwarded-For": "127.0.0.1"}
        assert page.get("/api/state", headers=own).status_code == 401
    assert answers == {(): 429, ("127.0.0.1",): 401}


def test_only_the_login_itself_is_open(open_page: Callable[..., httpx.Client]) -> None:
    """round3 4.8: every path that began with its name was."""
    page = open_page("open sesame")
    for path in ("/loginx", "/login/", "/api/login/x", "/healthy", "/health/"):
        assert page.get(path).status_code == 401


def test_a_cookie_is_not_made_from_the_password_alone(
    open_page: Callable[..., httpx.Client],
) -> None:
    first, again = open_page("open sesame"), open_page("open sesame")
    right = first.post("/api/login", json={"password": "open sesame"})
    made = hmac.new(b"open sesame", b"operator's page", hashlib.sha256).hexdigest()
    assert made not in right.headers["set-cookie"]
    # A service that started again knows its browsers.
    kept = {"em_operator": first.cookies["em_operator"]}
    again.cookies.update(kept)
    assert again.get("/api/state").status_code == 200


def test_settings_may_name_the_page_otherwise() -> None:
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("0.0.0.0") and not is_loopback("microscope")
    assert "tem1.lab" in known_names("0.0.0.0", ("TEM1.lab",))
    assert Settings(
        broker=BrokerSettings(), acquisition=AcquisitionSettings()
    ).acquisition.operator.host == ("127.0.0.1")


def test_no_cookie_and_no_origin_ends_the_gate(
    open_page: Callable[..., httpx.Client],
) -> None:
    """round3 4.8: cookies of other programs of this computer, and `http://[`: 500."""
    page = open_page("open sesame")
    page.post("/api/login", json={"password": "open sesame"}).raise_for_status()
    own = f"em_operator={page.cookies['em_operator']}"
    address = str(page.base_url).rstrip("/")
    for cookie in (f"a/b=1; {own}", f"{own}; x", f'em_operator="\\"; (=; {own}'):
        headers = {**ELSEWHERE, "Cookie": cookie}
        answer = httpx.get(f"{address}/api/state", headers=headers)
        assert answer.status_code == 200, cookie
    for origin in ("http://[", "null", "", address.replace("//", "//a@")):
        headers = {**ELSEWHERE, "Cookie": own, "Origin": origin}
        answer = httpx.get(f"{address}/api/state", headers=headers)
        assert answer.status_code == 403, origin
