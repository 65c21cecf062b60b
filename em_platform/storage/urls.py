"""What the URL of an output says of where it lies."""

from pathlib import Path

from fsspec.implementations.local import LocalFileSystem


def local_path(url: str) -> Path | None:
    """The path that a URL names on this machine's disk, else None."""
    if "://" not in url:
        return Path(url).absolute()
    if url.startswith(("file://", "local://")):
        return Path(LocalFileSystem._strip_protocol(url))  # noqa: SLF001
    return None


def errors_of(root: str) -> tuple[type[Exception], ...]:
    """What a store of this URL raises when it does not take or give the bytes."""
    if not root.startswith("s3://"):
        return (OSError,)
    from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

    return OSError, BotoCoreError
