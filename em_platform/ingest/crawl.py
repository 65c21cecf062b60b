"""All files below a folder of a web server, folder by folder, by its index pages."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

from em_platform.errors import SourceError, SourceRefused
from em_platform.ingest.web import Web
from em_platform.model.ingest import RemoteFile

T = TypeVar("T")

# Both stop a crawl that would not end: a tree of links to itself has no leaves, and
# each folder costs one request.
_MOST_FOLDERS = 2000
_MOST_DEEP = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One file: its path below the folder where the crawl began, and its URL."""

    path: str
    url: str


def crawl(web: Web, url: str, *, pattern: str = "") -> tuple[Found, ...]:
    """All files below `url`, in the order of the index pages.

    With a `pattern` (`*` within one name), only the files that fit it, and only the
    folders that may hold such. What TrakEM2 keeps beside a project is left out.

    Raises
    ------
    SourceRefused
        There is no such folder, or it has too many folders.
    """
    wanted = pattern.split("/") if pattern else []
    found: list[Found] = []
    # The list grows while it is walked: breadth first, without recursion.
    folders = [("", url)]
    for number, (path, at) in enumerate(folders):
        if number == _MOST_FOLDERS:
            raise SourceRefused(
                f"{web.who}: {url} has more than {_MOST_FOLDERS} folders; choose an "
                "item, or an image set of it, with fewer",
                url=url,
            )
        for listed in web.listing(at):
            names = [*filter(None, path.split("/")), listed.name]
            inside = "/".join(names)
            if listed.is_folder:
                if _may_hold(names, wanted):
                    folders.append((inside, listed.url))
            elif not wanted or _fits(names, wanted):
                found.append(Found(path=inside, url=listed.url))
    return tuple(found)


def from_any(urls: Iterable[str], ask: Callable[[str], T]) -> tuple[str, T]:
    """The first of the URLs at which `ask` gets an answer, and that answer.

    Raises
    ------
    SourceRefused, SourceUnavailable
        The error of the first one, where none answers.
    """
    first: SourceError | None = None
    for url in urls:
        try:
            return url, ask(url)
        except SourceError as error:
            # The first address is the preferred one: its error says most.
            first = first or error
    raise first or SourceRefused("ingest: no address is set for a source; set one")


def with_sizes(web: Web, files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
    """The files with the lengths and ETags that their server states."""

    def measure(file: RemoteFile) -> RemoteFile:
        head = web.head(file.url)
        stated = {"size_bytes": head.size_bytes, "etag": head.etag}
        return file.model_copy(update=stated)

    # The rate limit of `web` decides; more threads would only wait for it.
    with ThreadPoolExecutor(8, "head") as pool:
        return tuple(pool.map(measure, files))


def _may_hold(names: list[str], wanted: list[str]) -> bool:
    # TrakEM2 names its folders so, with numbers behind; EMPIAR-11759 has one.
    if names[-1].startswith(("trakem2.", ".")) or len(names) > _MOST_DEEP:
        return False
    return not wanted or (
        len(names) < len(wanted) and _fits(names, wanted[: len(names)])
    )


def _fits(names: list[str], wanted: list[str]) -> bool:
    # `fnmatch` ignores case on some systems; addresses do not.
    return len(names) == len(wanted) and all(map(fnmatchcase, names, wanted))
