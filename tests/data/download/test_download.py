"""Downloads from servers that fail in all the ways that servers do."""

from d2lcls.data.download.cache import DataUnavailable, fetch
from d2lcls.machine.files import cache_folder

import pytest
from local_server import ARCHIVE, holds, sha1


def test_a_download_that_breaks_off_goes_on_where_it_stopped(server, offer):
    offer(server.source())
    server.cut = [500_000]
    assert holds(fetch("fake"))
    (_, first), (_, second) = server.log
    begin = int(second[len("bytes=") : -1])
    assert first is None and 500_000 - 2**16 <= begin <= 500_000


def test_a_part_is_finished_by_a_later_call(server, offer):
    offer(server.source())
    server.cut = [500_000, 0]  # a second break without any progress gives up
    with pytest.raises(DataUnavailable, match="broke off; what arrived is kept"):
        fetch("fake")
    part = cache_folder() / ".staging" / "fake" / f"{sha1(ARCHIVE)}.part"
    begin = part.stat().st_size
    assert part.read_bytes() == ARCHIVE[:begin] and begin > 0
    assert holds(fetch("fake"))
    assert server.log[-1][1] == f"bytes={begin}-"


def test_a_server_that_ignores_ranges_makes_it_start_over(server, offer):
    server.ranges = False
    offer(server.source())
    server.cut = [500_000]
    assert holds(fetch("fake"))
    assert len(server.log) == 2 and server.log[1][1].startswith("bytes=")


def test_a_part_that_is_whole_needs_no_more_bytes(server, offer):
    offer(server.source())
    staging = cache_folder() / ".staging" / "fake"
    staging.mkdir(parents=True)
    (staging / f"{sha1(ARCHIVE)}.part").write_bytes(ARCHIVE)
    assert holds(fetch("fake"))
    assert server.log == [("/good.tar.gz", f"bytes={len(ARCHIVE)}-")]


def test_a_part_that_is_wrong_is_thrown_away_and_fetched_once_more(server, offer):
    offer(server.source())
    staging = cache_folder() / ".staging" / "fake"
    staging.mkdir(parents=True)
    (staging / f"{sha1(ARCHIVE)}.part").write_bytes(b"x" * 1000)
    assert holds(fetch("fake"))
    assert [asked for _, asked in server.log] == ["bytes=1000-", None]


@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "error page"])
def test_a_damaged_file_is_deleted_and_the_next_source_asked(server, offer, damage):
    flipped = bytearray(ARCHIVE)
    flipped[len(flipped) // 2] ^= 1
    server.pages["/bad.tar.gz"] = {
        "flipped bit": bytes(flipped),
        "truncated": ARCHIVE[:-1000],
        "error page": b"<html>Sorry</html>",
    }[damage]
    offer(server.source("/bad.tar.gz", "first"))
    with pytest.raises(DataUnavailable, match=r"first \(127.0.0.1\): sent a damaged file .*was deleted"):
        fetch("fake")
    assert not list(cache_folder().rglob("*.part")) and not (cache_folder() / "fake").exists()
    offer(server.source("/bad.tar.gz"), server.source())
    assert holds(fetch("fake"))
