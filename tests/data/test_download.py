from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from sbmgraph.data import download as module
from sbmgraph.data import transfer
from sbmgraph.data.download import Archive, check_published, download, fetch

CONTENT = np.random.default_rng(0).bytes(300_000)
CHECKSUM = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT at /file; its name, what it does wrong, and what was asked, are attributes."""

    ranges = True
    break_after: int | None = None
    breaks = 10**9
    status = 200
    content = CONTENT
    shift = 0
    endless = False
    name = "file"

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
        if server.status != 200 or self.path != f"/{server.name}":
            self.send_error(404 if server.status == 200 else server.status)
            return
        start = int(wanted[len("bytes=") : -1]) if wanted and server.ranges else 0
        start = max(start - server.shift, 0)
        if wanted and server.ranges and start >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            self.end_headers()
            return
        body = server.content[start:]
        self.send_response(206 if wanted and server.ranges else 200)
        if wanted and server.ranges:
            last = len(server.content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
        if not server.endless:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.endless:
            body *= 100
        if server.break_after is not None and server.breaks > 0:
            server.breaks -= 1
            body = body[: server.break_after]
        server.sent += len(body)  # before the client can have it all and look
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(transfer, "PAUSE", 0.0)
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
    with pytest.raises(
        ValueError, match=r"expected the checksum sha256:.*, got sha256:.* \(removed\)"
    ):
        download([server.url()], path, CHECKSUM)
    assert os.listdir(path.parent) == []


def test_not_found(server, path):
    with pytest.raises(
        ValueError, match=r"archive\.bin: expected a file .*/nothing: HTTP 404.*put it at this path"
    ) as error:
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
    archive = Archive("file", "http://127.0.0.1:9/file", CHECKSUM, len(CONTENT))
    base = server.url("")
    if by_variable:
        monkeypatch.setenv(module.MIRROR_VARIABLE, base)
    assert fetch(archive, tmp_path, None if by_variable else base).read_bytes() == CONTENT
    fetch(archive, tmp_path, base)
    assert len(server.requests) == 1


def test_full_disk(server, path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(transfer, "_receive", full)
    with pytest.raises(ValueError, match=rf"{path.parent}.*No space left on device"):
        download([server.url()], path, CHECKSUM)


def test_no_room(server, path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(ValueError) as error:
            download([server.url()], path, CHECKSUM)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(error.value).startswith(
        f"{path.parent}: expected a folder with room for archive.bin"
    )
    assert not path.exists()
    download([server.url()], path, CHECKSUM)
    assert os.listdir(path.parent) == ["archive.bin"]


def test_the_network_is_not_taken_for_the_disk(server, path, monkeypatch):
    def broken(*_):
        raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN))

    monkeypatch.setattr(http.client.HTTPResponse, "read", broken)
    with pytest.raises(ValueError, match=r"/file: the connection broke .*Network is down.*again"):
        download([server.url()], path, CHECKSUM)


@pytest.mark.parametrize("name", ["archive.bin.part", "archive.bin"])
def test_links_are_not_followed(server, path, tmp_path, name):
    """Whoever can put a link into a shared folder must not choose what is written over."""
    path.parent.mkdir()
    victim = tmp_path / "victim"
    victim.write_bytes(CONTENT[:1000])
    link = path.with_name(name)
    if name == "archive.bin":
        link.symlink_to(tmp_path / "victim")
    else:
        os.link(victim, link)
    download([server.url()], path, CHECKSUM)
    assert victim.read_bytes() == CONTENT[:1000]
    assert path.read_bytes() == CONTENT
    assert not path.is_symlink()
    link = path.with_name("archive.bin.part")
    link.unlink(missing_ok=True)
    link.symlink_to(victim)
    path.unlink()
    server.break_after, server.ranges = 100, False
    with pytest.raises(ValueError, match=r"cut short|connection broke"):
        download([server.url()], path, CHECKSUM)
    assert victim.read_bytes() == CONTENT[:1000]


def test_several_processes_at_once(server, path):
    """Each writes to a file of its own; the connections break in turn, so that they interleave."""
    server.break_after = 20_000
    context = multiprocessing.get_context("fork")
    arguments = ([server.url()], path, CHECKSUM)
    children = [context.Process(target=download, args=arguments) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0, 0]
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == ["archive.bin"]


def test_threads_at_once(server, path):
    server.break_after = 20_000
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(download, [server.url()], path, CHECKSUM) for _ in range(8)]:
            future.result()
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == ["archive.bin"]


def test_what_a_killed_process_left_is_taken_up(server, path):
    path.parent.mkdir()
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE, text=True
    )
    host = socket.gethostname()
    left = path.with_name(f".archive.bin.{host}.{child.stdout.strip()}.abcd.part")
    left.write_bytes(CONTENT[:250_000])
    living = path.with_name(f".archive.bin.{host}.{os.getpid()}.abcd.part")
    living.write_bytes(CONTENT[:1000])
    download([server.url()], path, CHECKSUM)
    assert path.read_bytes() == CONTENT
    assert server.sent == 50_000
    assert sorted(os.listdir(path.parent)) == [living.name, "archive.bin"]


def test_another_range_than_asked_for(server, path):
    """A server that begins too early: what it sends is not appended."""
    path.parent.mkdir()
    path.with_name("archive.bin.part").write_bytes(CONTENT[:250_000])
    server.shift = 10
    download([server.url()], path, CHECKSUM)
    assert path.read_bytes() == CONTENT
    assert server.requests == ["bytes=250000-", None]


def test_no_more_is_taken_than_the_file_has(server, path):
    server.endless = True
    with pytest.raises(ValueError, match="expected 300,000 bytes, got more"):
        download([server.url()], path, CHECKSUM, size=300_000)
    assert os.listdir(path.parent) == []
    server.endless = False
    with pytest.raises(ValueError, match="expected a file of 299,999 bytes, got one of 300,000"):
        download([server.url()], path, CHECKSUM, size=299_999)
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize(
    "url", ["no address", "foo://127.0.0.1/file", "http://[/file", "http://a b/"]
)
def test_bad_addresses(path, url):
    with pytest.raises(ValueError, match=r"archive\.bin: expected a file that can be downloaded"):
        download([url], path, CHECKSUM)


def test_the_checksum_of_a_file_that_is_there(tmp_path):
    archive = Archive("file", "", CHECKSUM, len(CONTENT))
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    check_published(path, archive)
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(ValueError, match=rf"^{path}: expected the published archive, .*{CHECKSUM}"):
        check_published(path, archive)


def test_checksum_format(path):
    with pytest.raises(ValueError, match=r"'checksum' must be 'md5:\.\.\.'"):
        download([], path, "crc:1")
