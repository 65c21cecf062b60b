"""Pictures that came as base64 on the bus, held for the browser."""

import base64
import binascii
from collections import OrderedDict
from dataclasses import dataclass

_MOST_BYTES = 128_000_000


@dataclass(frozen=True, slots=True)
class Picture:
    """Bytes of an image file and what kind they are."""

    content: bytes
    media_type: str


class Pictures:
    """By name; the oldest go when all together are too large."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._held: OrderedDict[str, Picture] = OrderedDict()
        self._size = 0

    def put(self, name: str, text: str | None) -> bool:
        """Hold a base64 picture, also a `data:` address; whether it is a picture."""
        picture = decoded(text or "")
        if picture is None:
            return False
        self.drop(name)
        self._held[name] = picture
        self._size += len(picture.content)
        while self._size > self._most_bytes and len(self._held) > 1:
            _, oldest = self._held.popitem(last=False)
            self._size -= len(oldest.content)
        return True

    def get(self, name: str) -> Picture | None:
        """The picture, where it is held."""
        return self._held.get(name)

    def drop(self, name: str) -> None:
        """Forget one picture."""
        if (old := self._held.pop(name, None)) is not None:
            self._size -= len(old.content)

    def drop_all(self, prefix: str) -> None:
        """Forget all pictures whose name begins so."""
        for name in [name for name in self._held if name.startswith(prefix)]:
            self.drop(name)


def decoded(text: str) -> Picture | None:
    """The picture in a base64 text; None where it is no JPEG, PNG, WebP or GIF."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        content = base64.b64decode(text, validate=False)
    except (binascii.Error, ValueError):
        return None
    kind = _kind(content)
    return Picture(content, kind) if kind else None


def _kind(content: bytes) -> str:
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return "image/gif" if content.startswith(b"GIF8") else ""
