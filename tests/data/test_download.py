from __future__ import annotations

import hashlib
import http.server
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile

import pytest

from genrec_fast import data
from genrec_fast.base.errors import DataError, InvalidValueError
from genrec_fast.data import download

PAYLOAD = bytes(range(256)) * 2_000  # 512,000 bytes
SHA = hashlib.sha256(PAYLOAD).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves one payload; what it does is set by the test."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.payload, self.ranges, self.etag, self.status = PAYLOAD, True, '"v1"', 200
        self.cut_after = None  # bytes of the body after which the connection ends
        self.stall_after = None  # ... after which nothing more comes
        self.asked = []  # Range headers
        self.stop = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file.bin"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        if server.status != 200:
            self.send_error(server.status)
            return
        start = 0
        fresh = self.headers.get("If-Range") in (None, server.etag)
        if asked and server.ranges and fresh:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(server.payload):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(server.payload) - 1}/{len(server.payload)}")
        else:
            self.send_response(200)
        body = server.payload[start:]
        self.send_header("Content-Length", str(len(body)))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        limit = server.cut_after if server.cut_after is not None else server.stall_after
        self.wfile.write(body[:limit])
        self.wfile.flush()
        if server.stall_after is not None:
            server.stop.wait(20)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.stop.set()
        running.shutdown()
        thread.join()


def fetch(server, path, **options):
    data.fetch_file(server.url, path, progress=False, timeout=5, **options)


def test_fetches_checks_and_leaves_nothing_else_behind(server, tmp_path):
    path = tmp_path / "file.bin"
    fetch(server, path, sha256=SHA.upper(), size=len(PAYLOAD))
    assert path.read_bytes() == PAYLOAD
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]
    fetch(server, path, sha256=SHA)  # there already: nothing is asked of the server
    assert server.asked == [None]


def test_bar_shows_the_name(server, tmp_path, capsys):
    data.fetch_file(server.url, tmp_path / "file.bin", sha256=SHA)
    assert "file.bin" in capsys.readouterr().err


@pytest.mark.parametrize("known", [True, False])
def test_cut_connection_is_named_and_the_next_call_goes_on(server, tmp_path, known):
    path, sha = tmp_path / "file.bin", SHA if known else None
    server.cut_after = 200_000
    with pytest.raises(DataError, match=r"file.bin: the connection was cut .*first 200000 bytes are kept"):
        fetch(server, path, sha256=sha)
    assert not path.exists()
    server.cut_after = None
    fetch(server, path, sha256=sha)
    assert path.read_bytes() == PAYLOAD
    assert server.asked == [None, "bytes=200000-"]
    assert not list(tmp_path.glob("*.part*"))


def test_kill_in_the_middle_then_resume(server, tmp_path):
    path, part = tmp_path / "file.bin", tmp_path / "file.bin.part"
    server.stall_after = 300_000
    code = (
        f"from genrec_fast import data; data.fetch_file({server.url!r}, {str(path)!r}, sha256={SHA!r}, progress=False)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        end = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size > 100_000):
            assert child.poll() is None, "the child ended early"
            assert time.monotonic() < end, "nothing arrived"
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    have = part.stat().st_size
    assert not path.exists()
    server.stall_after = None
    server.stop.set()
    fetch(server, path, sha256=SHA)
    assert path.read_bytes() == PAYLOAD
    assert server.asked == [None, f"bytes={have}-"]


def test_server_that_goes_silent_is_a_cut(server, tmp_path):
    server.stall_after = 1_000
    with pytest.raises(DataError, match=r"the connection was cut \(TimeoutError\)"):
        data.fetch_file(server.url, tmp_path / "file.bin", sha256=SHA, progress=False, timeout=0.2)


def test_server_without_range_starts_over(server, tmp_path):
    server.ranges = False
    (tmp_path / "file.bin.part").write_bytes(b"x" * 1_000)
    fetch(server, tmp_path / "file.bin", sha256=SHA)
    assert (tmp_path / "file.bin").read_bytes() == PAYLOAD
    assert server.asked == ["bytes=1000-"]


def test_beginning_of_another_version_is_thrown_away(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(b"x" * 1_000)  # no ETag kept with it: the checksum finds out
    fetch(server, tmp_path / "file.bin", sha256=SHA)
    assert (tmp_path / "file.bin").read_bytes() == PAYLOAD
    assert server.asked == ["bytes=1000-", None]


def test_without_a_checksum_the_servers_word_decides_about_resuming(server, tmp_path):
    path = tmp_path / "file.bin"
    server.cut_after = 1_000
    with pytest.raises(DataError, match="cut"):
        fetch(server, path)
    server.cut_after, server.etag, server.payload = None, '"v2"', PAYLOAD[::-1]
    fetch(server, path)  # If-Range does not fit: everything comes again
    assert path.read_bytes() == PAYLOAD[::-1]


def test_without_checksum_or_etag_nothing_is_resumed(server, tmp_path):
    server.etag = None
    (tmp_path / "file.bin.part").write_bytes(b"x" * 1_000)
    fetch(server, tmp_path / "file.bin")
    assert server.asked == [None]
    assert (tmp_path / "file.bin").read_bytes() == PAYLOAD


@pytest.mark.parametrize("size", [None, len(PAYLOAD)])
def test_part_that_is_already_whole(server, tmp_path, size):
    (tmp_path / "file.bin.part").write_bytes(PAYLOAD)
    fetch(server, tmp_path / "file.bin", sha256=SHA, size=size)
    assert (tmp_path / "file.bin").read_bytes() == PAYLOAD


def test_part_that_is_too_long_starts_over(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(PAYLOAD + b"more")
    fetch(server, tmp_path / "file.bin", sha256=SHA)
    assert (tmp_path / "file.bin").read_bytes() == PAYLOAD


def test_wrong_checksum_removes_what_came(server, tmp_path):
    with pytest.raises(DataError, match=rf"sha256 must be {'0' * 64}, got {SHA}; what was fetched has been removed"):
        fetch(server, tmp_path / "file.bin", sha256="0" * 64)
    assert not (tmp_path / "file.bin").exists()
    assert not (tmp_path / "file.bin.part").exists()


def test_altered_file_is_refused_not_overwritten(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match=rf"file.bin: sha256 must be {SHA}, got [0-9a-f]{{64}}; remove the file"):
        fetch(server, tmp_path / "file.bin", sha256=SHA)
    assert (tmp_path / "file.bin").read_bytes() == b"mine"


def test_first_download_is_trusted_and_recorded(server, tmp_path):
    path = tmp_path / "file.bin"
    fetch(server, path)
    assert (tmp_path / "file.bin.sha256").read_text() == f"{SHA}  file.bin\n"
    path.unlink()
    server.payload, server.etag = PAYLOAD[:-1], '"v2"'
    with pytest.raises(DataError, match=f"sha256 must be {SHA}"):
        fetch(server, path)


def test_file_that_is_there_is_recorded_too(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(PAYLOAD)
    fetch(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin.sha256").read_text().startswith(SHA)
    assert server.asked == []


@pytest.mark.parametrize("status", [403, 404, 500])
def test_refusal_is_named(server, tmp_path, status):
    server.status = status
    with pytest.raises(DataError, match=rf"http://127.0.0.1:\d+/file.bin: the server answers {status} \w+"):
        fetch(server, tmp_path / "file.bin", sha256=SHA)
    assert list(tmp_path.iterdir()) == []


def test_wrong_size_is_named_before_anything_is_fetched(server, tmp_path):
    with pytest.raises(DataError, match=f"must have 7 bytes, but the server offers {len(PAYLOAD)}"):
        fetch(server, tmp_path / "file.bin", sha256=SHA, size=7)


def test_nobody_there(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as closed:
        url = closed.url
    with pytest.raises(DataError, match=r"cannot be reached: .*[Rr]efused"):
        data.fetch_file(url, tmp_path / "file.bin", progress=False)


def test_wrong_arguments_are_named(tmp_path):
    with pytest.raises(InvalidValueError, match="url must begin with http:// or https://, got 'file:///etc/passwd'"):
        data.fetch_file("file:///etc/passwd", tmp_path / "x")
    with pytest.raises(InvalidValueError, match="sha256 must be 64 hex digits, got 'abc'"):
        data.fetch_file("http://127.0.0.1/x", tmp_path / "x", sha256="abc")
    with pytest.raises(InvalidValueError, match="name must be one of ml-100k, ml-1m, beauty, sports, toys, got 'nope'"):
        data.fetch("nope", tmp_path)
    with pytest.raises(InvalidValueError, match="sha256 of ml-1m must be a6898adb"):
        data.fetch("ml-1m", tmp_path, sha256="0" * 64)


def test_sources_are_complete():
    for name, source in data.SOURCES.items():
        assert source.url.startswith("https://"), name
        assert source.sha256 is None or re.fullmatch("[0-9a-f]{64}", source.sha256)
        assert (source.size is None) == (source.sha256 is None)
        assert source.licence


def archive(path, members):
    with zipfile.ZipFile(path, "w") as out:
        for name, text in members.items():
            out.writestr(name, text.encode("latin-1"))
    return path.read_bytes()


ML_100K = {
    "ml-100k/u.data": "1\t2\t5\t30\n1\t1\t3\t20\n2\t1\t4\t10\n",
    "ml-100k/u.item": "1|Toy Story (1995)|01-Jan-1995||http://x|0|0|0|1|1|1\n2|Café (1990)|||http://y|0|1\n",
}
ML_1M = {
    "ml-1m/ratings.dat": "1::2::5::30\n1::1::3::20\n2::1::4::10\n",
    "ml-1m/movies.dat": "1::Toy Story (1995)::Animation|Children's|Comedy\n2::Café (1990)::Action\n",
}


@pytest.mark.parametrize(("name", "members"), [("ml-100k", ML_100K), ("ml-1m", ML_1M)])
def test_movielens_becomes_loadable(server, tmp_path, monkeypatch, name, members):
    server.payload = archive(tmp_path / "served.zip", members)
    sha = hashlib.sha256(server.payload).hexdigest()
    source = download.Source(
        url=server.url,
        file=f"{name}.zip",
        size=len(server.payload),
        sha256=sha,
        unpack=data.SOURCES[name].unpack,
        licence="",
    )
    monkeypatch.setitem(data.SOURCES, name, source)
    dataset = data.load(data.fetch(name, tmp_path / "out", progress=False))
    assert dataset.titles == ["Toy Story (1995)", "Café (1990)"]
    assert dataset.attributes == ["Animation Children's Comedy", "Action"]
    assert [row.tolist() for row in dataset.interactions.items.rows()] == [[0, 1], [0]]
    assert data.load(data.fetch(name, tmp_path / "out", progress=False)).num_items == 2
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"ml-1m/ratings.dat": "1::2::5::30\n"}, r"must be a zip archive with ratings.dat, movies.dat in ml-1m/"),
        ({**ML_1M, "ml-1m/ratings.dat": "1::2::5\n"}, "a rating must have 4 fields, but number 1 has 3"),
        ({**ML_1M, "ml-1m/movies.dat": "1::A::B\n2::C\n"}, "a film must have 3 fields, but number 2 has 2"),
    ],
)
def test_archive_with_something_else_in_it(tmp_path, members, message):
    archive(tmp_path / "ml-1m.zip", members)
    with pytest.raises(DataError, match=message):
        data.SOURCES["ml-1m"].unpack(tmp_path / "ml-1m.zip")
    assert not (tmp_path / "ml-1m.inter").exists()


def test_not_an_archive(tmp_path):
    (tmp_path / "ml-1m.zip").write_bytes(b"<html>")
    with pytest.raises(DataError, match="must be a zip archive"):
        data.SOURCES["ml-1m"].unpack(tmp_path / "ml-1m.zip")


def test_text_source_through_a_mirror(server, tmp_path):
    server.payload = b"1 1 2 3\n2 2 3 1\n"
    folder = data.fetch("toys", tmp_path / "toys", url=server.url, progress=False)
    assert data.load(folder).num_users == 2
