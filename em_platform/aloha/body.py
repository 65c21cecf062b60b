"""The body of a request, taken piece by piece."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import BinaryIO

from em_platform.errors import ChecksumError, PlatformError, StorageError


class TooLarge(PlatformError):
    """A body is longer than the settings allow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """How long a body was, and its checksum."""

    sha256: str
    bytes: int


async def receive(
    pieces: AsyncIterator[bytes], target: BinaryIO | None, *, limit_bytes: int
) -> Received:
    """Take a body piece by piece, into `target` if there is one.

    Raises
    ------
    TooLarge
        It is longer than `limit_bytes`.
    StorageError
        The disk did not take it.
    """
    digest, length = hashlib.sha256(), 0
    async for piece in pieces:
        length += len(piece)
        # Counted as it comes: a sender need not state the length, or rightly.
        if length > limit_bytes:
            raise TooLarge(
                f"aloha: a body of more than {limit_bytes} bytes came, at most that "
                "many are taken; raise aloha.tile_limit_mb"
            )
        digest.update(piece)
        if target is not None:
            try:
                target.write(piece)
            except OSError as error:
                raise StorageError(
                    f"aloha: a frame could not be written ({error.strerror or error}); "
                    "free space, the sender tries again"
                ) from error
    return Received(sha256=digest.hexdigest(), bytes=length)


def refuse_other_bytes(
    received: Received, tile_id: str, *, sha256: str, length: int
) -> None:
    """Raise ChecksumError where a body is not what was announced."""
    # Before the checksum, which would differ too and say less.
    if received.bytes != length:
        raise ChecksumError(
            f"aloha: tile {tile_id}: {received.bytes} bytes came, {length} were "
            "announced; send the frame again",
            tile_id=tile_id,
        )
    if received.sha256 != sha256:
        raise ChecksumError(
            f"aloha: tile {tile_id}: the bytes that came have sha256 "
            f"{received.sha256}, {sha256} was announced; send the frame again",
            tile_id=tile_id,
        )
