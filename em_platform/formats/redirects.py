"""Sessions that follow a redirect only to where it may lead.

An answer can send its reader anywhere: to a service of this computer or of its network,
or from https to http. Only hosts that were named are followed to.
"""

import ipaddress
import socket
from collections.abc import Callable, Collection
from urllib.parse import urljoin

import requests
from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from em_platform.errors import SourceRefused

_MOST_HOPS = 5
_PORTS = {"http": 80, "https": 443}

Resolve = Callable[[str], Collection[str]]
"""The IP addresses of a host name; none where it is not known."""


def addresses_of(host: str) -> Collection[str]:
    """The IP addresses of a host name, by the system's resolver."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:  # behind a proxy no name is known here
        return ()
    return {str(address[0]) for *_, address in found}


def check_redirect(
    at: str,
    to: str,
    *,
    who: str,
    hosts: Collection[str] | None = (),
    cure: str = "correct the address",
    resolve: Resolve = addresses_of,
) -> None:
    """Refuse a redirect from the URL `at` to the URL `to`.

    `hosts` are names that it may lead to, each with all names below it, None is any:
    where a person named the address; `cure` is what the user can do.

    Raises
    ------
    SourceRefused
        Another host that is not among them, http after https, or an address of this
        network from one outside.
    """
    here, there = parse_url(at), _parsed(to)
    name, why = there.host or "", ""
    if there.scheme not in _PORTS or not name:
        why = "expected an address of http or https"
    elif here.scheme == "https" and there.scheme == "http":
        why = "expected https as before"
    elif not _same_host(here, there):
        if hosts is not None and not any(_belongs(name, host) for host in hosts):
            why = "expected the same host or one that is listed"
        elif _leads_inside(here.host or "", name, resolve):
            why = "expected no address inside of this network"
    if why:
        # No more of either: queries may hold keys.
        place = f"{there.scheme}://{there.netloc}"
        raise SourceRefused(
            f"{who}: {here.host} sent us on to {place}, {why}; {cure}", url=place
        )


def _parsed(url: str) -> Url:
    """The parts of a URL, by the parser that connects; none where it has odd letters.

    With a backslash, other parsers see another host than this one.
    """
    if "\\" in url or not url.isprintable():
        return Url()
    try:
        return parse_url(url)
    except LocationParseError:
        return Url()


def _same_host(here: Url, there: Url) -> bool:
    if here.host != there.host:
        return False
    ports = [each.port or _PORTS.get(each.scheme or "") for each in (here, there)]
    # 80 and 443 are one server: this is how http leads to https.
    return ports[0] == ports[1] or ports == [80, 443]


def _belongs(name: str, host: str) -> bool:
    return name == host.lower() or name.endswith(f".{host.lower()}")


def _leads_inside(here: str, there: str, resolve: Resolve) -> bool:
    if any(not _is_global(each) for each in resolve(here.strip("[]"))):
        return False
    return any(not _is_global(each) for each in resolve(there.strip("[]")))


def _is_global(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_global


class CarefulSession(requests.Session):
    """A session whose redirects are checked; parameters as of `check_redirect`."""

    def __init__(
        self, who: str, *, hosts: Collection[str], cure: str = "correct the address"
    ) -> None:
        super().__init__()
        self._who, self._hosts, self._cure = who, hosts, cure
        self.max_redirects = _MOST_HOPS

    # requests asks here before it follows, also where `_next` is made.
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Where an answer leads; SourceRefused where we do not go."""
        target = super().get_redirect_target(resp)
        if target is None:
            return None
        # Before requests reads all of its body, which may have any length.
        resp.close()
        try:
            to = urljoin(resp.url, target)
        except ValueError:
            to = ""
        check_redirect(resp.url, to, who=self._who, hosts=self._hosts, cure=self._cure)
        return target
