"""What a browser asks of an image: whole objects, byte ranges, from this machine."""

import pytest
import requests

from em_platform.ome_zarr import served

CONTENT = bytes(range(256)) * 4


@pytest.fixture
def address(tmp_path):
    folder = tmp_path / "a b.zarr"
    (folder / "0").mkdir(parents=True)
    (folder / "0" / "c").write_bytes(CONTENT)
    (folder / "empty").write_bytes(b"")
    (tmp_path / "secret").write_text("not yours")
    with served(str(folder)) as address:
        yield address


def test_an_object_comes_whole_and_to_pages_of_this_machine(address):
    for origin in ("http://127.0.0.1:8000", "http://localhost:1", "http://[::1]:80"):
        headers = {"Origin": origin}
        answer = requests.get(f"{address}/0/c", headers=headers, timeout=9)
        assert (answer.status_code, answer.content) == (200, CONTENT)
        assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert requests.get(f"{address}/empty", timeout=9).content == b""


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Origin": "http://localhost:80@evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
    ],
)
def test_pages_of_other_machines_get_nothing(address, method, headers):
    answer = requests.request(method, f"{address}/0/c", headers=headers, timeout=9)
    assert (answer.status_code, answer.content) == (403, b"")
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_a_link_out_of_the_image_is_not_followed(address, tmp_path):
    folder = tmp_path / "a b.zarr"
    (folder / "inside").symlink_to(folder / "0" / "c")
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "above").symlink_to(tmp_path)
    assert requests.get(f"{address}/inside", timeout=9).content == CONTENT
    for path in ("out", "above/secret"):
        assert requests.get(f"{address}/{path}", timeout=9).status_code == 404


def test_an_image_that_is_a_link_itself_is_served(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "c").write_bytes(CONTENT)
    (tmp_path / "link.zarr").symlink_to(tmp_path / "real")
    with served(str(tmp_path / "link.zarr")) as address:
        assert requests.get(f"{address}/c", timeout=9).content == CONTENT


@pytest.mark.parametrize(
    ("asked", "got", "content_range"),
    [
        ("bytes=0-9", CONTENT[:10], "bytes 0-9/1024"),
        ("bytes=1000-", CONTENT[1000:], "bytes 1000-1023/1024"),
        ("bytes=-20", CONTENT[-20:], "bytes 1004-1023/1024"),
        ("bytes=1020-2000", CONTENT[1020:], "bytes 1020-1023/1024"),
    ],
)
def test_a_byte_range_is_served_alone(address, asked, got, content_range):
    answer = requests.get(f"{address}/0/c", headers={"Range": asked}, timeout=9)
    assert (answer.status_code, answer.content) == (206, got)
    assert answer.headers["Content-Range"] == content_range


def test_a_range_beyond_the_end_is_refused(address):
    answer = requests.get(f"{address}/0/c", headers={"Range": "bytes=5000-"}, timeout=9)
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == "bytes */1024"


def test_head_tells_the_size_without_the_bytes(address):
    answer = requests.head(f"{address}/0/c", timeout=9)
    assert (answer.headers["Content-Length"], answer.content) == ("1024", b"")


def test_a_browser_may_ask_first(address):
    answer = requests.options(f"{address}/0/c", timeout=9)
    assert answer.status_code == 204
    assert "Range" in answer.headers["Access-Control-Allow-Headers"]


@pytest.mark.parametrize("path", ["/0", "/0/missing", "/../secret", "/%2e%2e/secret"])
def test_nothing_but_the_objects_of_the_image_is_served(address, path):
    session = requests.Session()
    request = requests.Request("GET", address).prepare()
    request.url = address + path  # as it is, without tidying
    assert session.send(request, timeout=9).status_code == 404
    session.close()
