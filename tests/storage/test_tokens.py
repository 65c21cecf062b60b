"""The secrets of services: made once, whole, for their owner only."""

import stat
from pathlib import Path

import pytest

from em_platform.errors import ConfigError
from em_platform.storage.tokens import token_of


def test_a_token_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    first = token_of(tmp_path, "aloha", "")
    assert token_of(tmp_path, "aloha", "") == first
    assert token_of(tmp_path, "aloha", "given") == "given"
    mode = stat.S_IMODE((tmp_path / "tokens" / "aloha").stat().st_mode)
    assert (len(first) >= 32, mode) == (True, 0o600)


@pytest.mark.parametrize("content", [b"", b" \n", b"\0" * 32, b"\xff\xfe"])
def test_a_token_file_without_a_token_lets_nobody_in(
    tmp_path: Path, content: bytes
) -> None:
    token_of(tmp_path, "temdb", "")
    file = tmp_path / "tokens" / "temdb"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"is empty or damaged.*delete it"):
        token_of(tmp_path, "temdb", "")
    assert file.read_bytes() == content
    file.unlink()
    assert len(token_of(tmp_path, "temdb", "")) >= 32


def test_a_token_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def fsync(number: int) -> None:
        assert not (tmp_path / "tokens" / "temdb").exists()
        synced.append(Path(f"/proc/self/fd/{number}").read_text())

    monkeypatch.setattr("os.fsync", fsync)
    token = token_of(tmp_path, "temdb", "")
    assert synced == [token]
    assert [file.name for file in (tmp_path / "tokens").iterdir()] == ["temdb"]
