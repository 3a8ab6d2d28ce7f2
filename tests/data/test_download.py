from __future__ import annotations

import errno
import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from sbmgraph.data import download as module
from sbmgraph.data.download import Archive, download, fetch

CONTENT = np.random.default_rng(0).bytes(300_000)
CHECKSUM = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT at /file; what it does wrong, and what was asked, are attributes."""

    ranges = True
    break_after: int | None = None
    breaks = 10**9
    status = 200
    content = CONTENT

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str | None] = []
        self.sent = 0

    def url(self, name: str = "file") -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.requests.append(wanted)
        if server.status != 200 or self.path != "/file":
            self.send_error(404 if server.status == 200 else server.status)
            return
        start = int(wanted[len("bytes=") : -1]) if wanted and server.ranges else 0
        if wanted and server.ranges and start >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            self.end_headers()
            return
        body = server.content[start:]
        self.send_response(206 if wanted and server.ranges else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.break_after is not None and server.breaks > 0:
            server.breaks -= 1
            body = body[: server.break_after]
        server.sent += len(body)  # before the client can have it all and look
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "_PAUSE", 0.0)
    monkeypatch.delenv(module.MIRROR_VARIABLE, raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "archive.bin"


def test_whole_file(server, path, capsys):
    download([server.url()], path, CHECKSUM)
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == ["archive.bin"]
    assert server.requests == [None]
    assert "archive.bin" in capsys.readouterr().err


def test_a_broken_connection_is_taken_up_where_it_broke(server, path):
    server.break_after = 100_000
    download([server.url()], path, CHECKSUM)
    assert path.read_bytes() == CONTENT
    assert server.requests == [None, "bytes=100000-", "bytes=200000-"]
    assert server.sent == len(CONTENT)


def test_a_later_call_goes_on_from_the_partial_file(server, path):
    path.parent.mkdir()
    path.with_name("archive.bin.part").write_bytes(CONTENT[:250_000])
    download([server.url()], path, CHECKSUM)
    assert path.read_bytes() == CONTENT
    assert server.sent == 50_000


def test_a_complete_partial_file_is_taken(server, path):
    path.parent.mkdir()
    path.with_name("archive.bin.part").write_bytes(CONTENT)
    download([server.url()], path, CHECKSUM)
    assert path.read_bytes() == CONTENT
    assert server.sent == 0


def test_a_partial_file_that_is_too_long_is_dropped(server, path):
    path.parent.mkdir()
    path.with_name("archive.bin.part").write_bytes(CONTENT * 2)
    download([server.url()], path, CHECKSUM)
    assert path.read_bytes() == CONTENT


def test_a_server_without_ranges(server, path):
    server.ranges, server.break_after, server.breaks = False, 100_000, 1
    download([server.url()], path, CHECKSUM)
    assert path.read_bytes() == CONTENT


def test_a_body_cut_short_for_good(server, path):
    server.ranges, server.break_after = False, 1_000
    with pytest.raises(ValueError, match=r"archive\.bin.*(cut short at 1000|connection broke)"):
        download([server.url()], path, CHECKSUM)
    assert not path.exists()


def test_wrong_checksum(server, path):
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(ValueError, match=r"expected the sha256 checksum .* \(file removed\)"):
        download([server.url()], path, CHECKSUM)
    assert os.listdir(path.parent) == []


def test_not_found(server, path):
    with pytest.raises(ValueError, match=r"/nothing: HTTP 404.*put it at .*archive\.bin") as error:
        download([server.url("nothing")], path, CHECKSUM)
    assert module.MIRROR_VARIABLE in str(error.value)
    assert server.requests == [None]


def test_a_server_in_trouble_is_asked_again(server, path):
    server.status = 503
    with pytest.raises(ValueError, match="HTTP 503 Service Unavailable, again and again"):
        download([server.url()], path, CHECKSUM)
    assert len(server.requests) == 5


def test_nobody_listens(path):
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:9/.*refused"):
        download(["http://127.0.0.1:9/file"], path, CHECKSUM)


def test_the_next_address_is_tried(server, path):
    download([server.url("nothing"), server.url()], path, CHECKSUM)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("by_variable", [True, False])
def test_mirror_comes_first(server, tmp_path, monkeypatch, by_variable):
    archive = Archive("file", "http://127.0.0.1:9/file", CHECKSUM)
    base = server.url("")
    if by_variable:
        monkeypatch.setenv(module.MIRROR_VARIABLE, base)
    assert fetch(archive, tmp_path, None if by_variable else base).read_bytes() == CONTENT
    fetch(archive, tmp_path, base)
    assert len(server.requests) == 1


def test_full_disk(server, path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "_receive", full)
    with pytest.raises(ValueError, match=rf"{path.parent}.*No space left on device"):
        download([server.url()], path, CHECKSUM)


def test_checksum_format(path):
    with pytest.raises(ValueError, match=r"checksum: expected 'md5:\.\.\.'"):
        download([], path, "crc:1")
