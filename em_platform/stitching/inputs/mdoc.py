"""A SerialEM montage: an mdoc with piece coordinates beside its MRC stack."""

from typing import Any

from em_platform.errors import ConfigError, FormatError
from em_platform.formats import MdocMontage, MdocPiece, join_uri, read_mdoc_montage
from em_platform.stitching.tile_list import (
    InputOptions,
    ListedTile,
    TileFolder,
    TileList,
)


def claims(name: str, content: Any) -> bool:
    """Whether this is an mdoc of a montage."""
    is_mdoc = isinstance(content, str) and name.endswith(".mdoc")
    # mdocs of tilt series have none.
    return is_mdoc and "PieceCoordinates" in content


def read(
    place: TileFolder, name: str, *, content: Any, options: InputOptions
) -> TileList:
    """The pieces of one section; each is one image of the stack."""
    uri = place.uri(name)
    montage = read_mdoc_montage(content, uri)
    pieces = _of_one_section(montage, uri, options.section)
    stack = _stack(place, name, montage=montage, given=options.image)
    return TileList(
        uri=uri,
        tiles=tuple(
            ListedTile(
                name=f"{stack.rpartition('/')[2]}#{piece.index}",
                uri=f"{stack}#{piece.index}",
                x_px=piece.x_px,
                y_px=piece.y_px,
                stage_nm=piece.stage_nm,
            )
            for piece in pieces
        ),
        pixel_nm=options.pixel_nm or montage.pixel_nm,
        modality="TEM",  # what SerialEM drives
        magnification=montage.magnification,
        started_at=montage.started_at,
        ended_at=montage.ended_at,
    )


def _of_one_section(
    montage: MdocMontage, uri: str, section: int | None
) -> list[MdocPiece]:
    sections = sorted({piece.section for piece in montage.pieces})
    if section is None and len(sections) > 1:
        raise ConfigError(
            f"{uri}: found montages of sections {sections}, expected one; choose it by "
            "--section"
        )
    chosen = sections[0] if section is None else section
    if chosen not in sections:
        raise ConfigError(
            f"{uri}: section {chosen} was asked for, found {sections}; choose one"
        )
    return [piece for piece in montage.pieces if piece.section == chosen]


def _stack(
    place: TileFolder, name: str, *, montage: MdocMontage, given: str | None
) -> str:
    if given is not None:
        return given
    wanted = [montage.image_file, name.removesuffix(".mdoc")]
    found = next((w for w in wanted if w and w in place.names), None)
    if found is None:
        raise FormatError(
            f"{place.uri(name)}: its image stack {wanted[0] or wanted[1]} is not "
            "beside it, expected there; copy it there or name it by --image"
        )
    return join_uri(place.folder, found)
