"""Which movie an aligned tilt image came from."""

from pathlib import PurePosixPath

from sqlalchemy import select

from em_platform.cryoem.ispyb import tables
from em_platform.cryoem.ispyb.database import Writer
from em_platform.cryoem.ispyb.lookup import Lookup
from em_platform.errors import RecordError

# A name may be followed by several: `X.tiff.bz2`. Others are part of the movie's name.
_SUFFIXES = {
    *(".mrc", ".mrcs", ".tif", ".tiff", ".eer", ".gz", ".bz2", ".zst", ".raw"),
    *(".st", ".dm4"),
}
_OUTPUT_SUFFIX = "_motion_corrected"


def movie_of(writer: Writer, lookup: Lookup) -> int:
    """The movie whose name is that of the aligned image, and not only begins so."""
    wanted = _stem(str(lookup.needed("path")))
    dcid = lookup.needed("dcid")
    movie = tables.MOVIE.c
    # The database narrows it down; which one it is, is decided below.
    near = select(movie.movieId, movie.movieFullPath).where(
        movie.dataCollectionId == int(dcid),
        movie.movieFullPath.contains(wanted, autoescape=True),
    )
    rows = writer.connection.execute(near).all()
    found = [row for row in rows if _stem(row.movieFullPath) == wanted]
    if len(found) != 1:
        those = ", ".join(row.movieFullPath for row in found) or "none"
        raise RecordError(
            f"ISPyB: data collection {dcid} has {len(found)} movies named {wanted} "
            f"({those}), one was expected; send movie_id with the tilt image"
        )
    return int(found[0].movieId)


def _stem(path: str) -> str:
    name = PurePosixPath(path)
    while name.suffix.lower() in _SUFFIXES:
        name = name.with_suffix("")
    return name.name.removesuffix(_OUTPUT_SUFFIX)
