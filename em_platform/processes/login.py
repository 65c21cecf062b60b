"""The page that asks for a service's password, and what a browser shows after it."""

import base64
import hashlib
import hmac
import html
import math
import re
from functools import cache
from importlib.resources import files

PATH = "/login"
ANSWER_PATH = "/api/login"


@cache
def login_page(title: str) -> tuple[bytes, bytes]:
    """The page with this title, and the policy that allows its own script alone."""
    text = files(__package__).joinpath("login.html").read_text(encoding="utf-8")
    script, style = (
        base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        for part in re.findall(r"<(?:script|style)>(.*?)</", text, re.S)[::-1]
    )
    policy = (
        f"default-src 'none'; script-src 'sha256-{script}'; connect-src 'self'; "
        f"style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return text.replace("NAME", html.escape(title)).encode(), policy.encode()


def cookie_of(password: str, key: str) -> str:
    """What a browser shows after its login.

    `key` is a secret of the service, so that no cookie can be made from a guessed
    password, and no password be found from a cookie.
    """
    return hmac.new(key.encode(), password.encode(), hashlib.sha256).hexdigest()


def shown_cookie(headers: dict[str, str], name: str) -> str:
    """The cookie of that name in a request; empty where there is none."""
    # Of several the last one. Cookies have no port: those of other programs may have
    # names that Python's parser ends at.
    shown = ""
    for each in headers.get("cookie", "").split(";"):
        named, _, value = each.strip().partition("=")
        if named == name:
            shown = value
    return shown


def set_cookie(name: str, value: str, *, scheme: str) -> bytes:
    """The header that gives a browser its cookie.

    No script reads it, no other page sends it. Over TLS it never goes in plain; a proxy
    of `web.trusted_proxies` that ends the TLS tells so in X-Forwarded-Proto.
    """
    over_tls = "; Secure" if scheme in ("https", "wss") else ""
    return f"{name}={value}; HttpOnly; Path=/; SameSite=strict{over_tls}".encode()


def too_many(wait_s: float) -> str:
    """The sentence for a try that was not even compared."""
    return (
        f"login: too many wrong passwords came from this address; "
        f"try again in {math.ceil(wait_s)} s"
    )
