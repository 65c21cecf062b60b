"""The CRC-32 of RFC 1952 by libdeflate: zlib's takes six to eight times as long."""


def crc32(content: bytes, value: int = 0) -> int:
    """Of `content`, behind bytes of which it is `value`; as `zlib.crc32`."""
    from imagecodecs import deflate_crc32  # which loads NumPy, that many do not need

    return int(deflate_crc32(content, value))
