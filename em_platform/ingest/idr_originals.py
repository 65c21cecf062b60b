"""The file from which IDR has imported an image, in its public archive."""

import logging
from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import quote, unquote

from em_platform.errors import SourceRefused
from em_platform.ingest.crawl import from_any
from em_platform.ingest.web import Web
from em_platform.model.ingest import RemoteFile

log = logging.getLogger(__name__)


def find_original(
    web: Web,
    roots: Sequence[str],
    *,
    image: str,
    name: str,
    paths: Sequence[str],
    folders: Sequence[str],
) -> RemoteFile:
    """The file at one of the `paths` below the roots of the archive.

    Where IDR tells no path, or there is nothing, the file of the image's `name` is
    looked for in the `folders` of its study.

    Raises
    ------
    SourceRefused
        It is nowhere.
    SourceUnavailable
        The archive does not answer.
    """
    roots = [root.rstrip("/") for root in roots]
    named = [path for path in paths if PurePosixPath(path).name == name]
    for path in (named or paths)[:1]:
        try:
            return _file(web, [f"{root}/{quote(path)}" for root in roots])
        except SourceRefused as error:
            log.info("%s; its folder is looked through", error)
    for folder in folders:
        places = [f"{root}/{quote(folder)}" for root in roots]
        _, listed = from_any(places, web.listing)
        if any(found.name == name and not found.is_folder for found in listed):
            return _file(web, [f"{place}/{quote(name)}" for place in places])
    where = ", ".join((*paths, *folders)) or "no folder of its study is known"
    raise SourceRefused(
        f"idr {image}: no original named {name!r} was found ({where}); check "
        "ingest.idr.files_urls",
        key=image,
    )


def _file(web: Web, urls: Sequence[str]) -> RemoteFile:
    url, head = from_any(urls, web.head)
    return RemoteFile(
        name=unquote(url.rpartition("/")[2]),
        url=url,
        mirrors=tuple(other for other in urls if other != url),
        size_bytes=head.size_bytes,
        etag=head.etag,
    )
