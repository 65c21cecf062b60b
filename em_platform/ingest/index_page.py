"""What a web server's index page lists: the names in one folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One file or folder; `name` has no slash, `url` of a folder ends in one."""

    name: str
    url: str
    is_folder: bool


def parse_index(page: str, url: str) -> tuple[Listed, ...]:
    """Files and folders that Apache's or nginx's index of `url` names, in its order.

    Only what lies directly in that folder counts: links to the parent, to other orders
    of the list and to other places are left out.
    """
    folder = _without_query(url).rstrip("/") + "/"
    parser = _Links()
    parser.feed(page)
    parser.close()
    found = {listed.name: listed for listed in _below(folder, parser.links)}
    return tuple(found.values())


class _Links(HTMLParser):
    """Collects where a page's links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value]


def _below(folder: str, links: list[str]) -> Iterator[Listed]:
    for link in links:
        if urlsplit(link).query or link.startswith("#"):
            continue
        # A bare name may have a colon in it, which urljoin takes for a scheme.
        bare = "://" not in link and not link.startswith("/")
        at = urljoin(folder, f"./{link}" if bare else link)
        rest = unquote(at).removeprefix(unquote(folder))
        name = rest.removesuffix("/")
        outside = len(rest) == len(unquote(at)) or not name or "/" in name
        if not outside and name not in (".", ".."):
            yield Listed(name=name, url=at, is_folder=rest.endswith("/"))


def _without_query(url: str) -> str:
    return urlunsplit(urlsplit(url)._replace(query="", fragment=""))
