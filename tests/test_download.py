"""Downloads from a real server on this machine that misbehaves."""

import hashlib
import http.server
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from eva_utils import download as room
from eva_utils.download import download

CONTENT = np.random.default_rng(0).bytes(1_000_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT at /good; other paths name what goes wrong."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("Range")))
        getattr(self, self.path.strip("/"))()

    def send(self, content=CONTENT, *, start=None, length=None, status=None):
        self.send_response(status or (206 if start else 200))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        if length is not False:
            self.send_header("Content-Length", str(length or len(content) - (start or 0)))
        self.end_headers()
        return content[start or 0 :]

    def start(self):
        wanted = self.headers.get("Range")
        return int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0

    def good(self):
        self.wfile.write(self.send(start=self.start()))

    def cut(self):
        """Send at most 300,000 bytes, then hang up."""
        self.wfile.write(self.send(start=self.start())[:300_000])

    def dead(self):
        self.send(start=self.start())

    def reset(self):
        self.send(start=self.start())
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())  # lingering for 0 seconds, it resets

    def no_range(self):
        self.wfile.write(self.send())

    def no_length(self):
        self.wfile.write(self.send(start=self.start(), length=False))

    def busy(self):
        self.send_error(503)

    def away(self):
        self.send_response(302)
        self.send_header("Location", "/good")
        self.end_headers()

    def circle(self):
        self.send_response(302)
        self.send_header("Location", "/circle")
        self.end_headers()

    def other(self):
        self.wfile.write(self.send(bytes(len(CONTENT)))[:])

    def other_cut(self):
        self.wfile.write(self.send(bytes(len(CONTENT)), start=self.start())[:600_000])

    def crumbs(self):
        """Send 1,000 bytes a connection."""
        self.wfile.write(self.send(start=self.start())[:1000])

    def header(self):
        """Send a header without end, byte by byte."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not self.server.stop.wait(0.05):
            self.wfile.write(b"x")

    def whole_or_nothing(self):
        """Answer no range, and hang up early."""
        self.wfile.write(self.send()[:1000])

    def short(self):
        self.wfile.write(self.send(CONTENT[:1000]))

    def endless(self):
        self.wfile.write(self.send(CONTENT + bytes(1000), length=False))

    def page(self):
        self.wfile.write(self.send(b"<html>please log in</html>"))

    def stall(self):
        self.wfile.write(self.send(start=self.start())[:1000])
        self.wfile.flush()
        self.server.stop.wait(5)

    def slow(self):
        content = self.send(start=self.start())
        while content and not self.server.stop.wait(0.05):
            self.wfile.write(content[:20_000])
            content = content[20_000:]

    def wrong_place(self):
        """Answer a range with the wrong piece."""
        self.send_response(206)
        self.send_header("Content-Range", f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.seen, server.stop, server.daemon_threads = [], threading.Event(), True
        server.handle_error = lambda *_: None
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.stop.set()
        server.shutdown()


@pytest.fixture
def fetch(server, tmp_path):
    """A function that downloads from paths of the server and returns the file's content."""
    path = tmp_path / "folder" / "archive.tar.gz"

    def fetch(*paths):
        urls = [f"http://127.0.0.1:{server.server_port}/{name}" for name in paths]
        download(urls, path, size=len(CONTENT), md5=MD5, verbose=False)
        assert not path.with_name("archive.tar.gz.part").exists()
        return path.read_bytes()

    fetch.path, fetch.part = path, path.with_name("archive.tar.gz.part")
    return fetch


@pytest.mark.parametrize("name", ["good", "away", "no_length", "no_range"])
def test_the_file_arrives(fetch, name):
    assert fetch(name) == CONTENT


def test_a_file_that_is_there_is_not_fetched_again(fetch, server):
    fetch("good")
    assert fetch("good") == CONTENT
    assert len(server.seen) == 1


def test_a_connection_that_is_cut_is_taken_up_where_it_ended(fetch, server):
    assert fetch("cut") == CONTENT
    assert [wanted for _, wanted in server.seen] == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_another_place_goes_on_where_the_first_one_ended(fetch, server):
    fetch.path.parent.mkdir()
    fetch.part.write_bytes(CONTENT[:123_456])
    assert fetch("dead", "good") == CONTENT
    assert server.seen[-1] == ("/good", "bytes=123456-")


@pytest.mark.parametrize("name", ["no_range", "wrong_place"])
def test_a_place_that_cannot_go_on_starts_anew(fetch, name):
    fetch.path.parent.mkdir()
    fetch.part.write_bytes(CONTENT[:500_000])
    assert fetch(name, "good") == CONTENT


def test_a_place_that_cannot_go_on_loses_nothing(fetch, server):
    fetch.path.parent.mkdir()
    fetch.part.write_bytes(CONTENT[:500_000])
    assert fetch("whole_or_nothing", "good") == CONTENT
    assert server.seen[-1] == ("/good", "bytes=500000-")


def test_a_damaged_beginning_is_found_and_fetched_anew(fetch):
    fetch.path.parent.mkdir()
    fetch.part.write_bytes(bytes(500_000))
    assert fetch("good") == CONTENT
    fetch.path.write_bytes(CONTENT[:-1] + b"x")  # as is a damaged file
    assert fetch("good") == CONTENT


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("busy", "status 503"),
        ("dead", "IncompleteRead"),
        ("reset", "reset"),
        ("circle", "status 302"),
        ("other", "another file"),
        ("other_cut", "another file"),
        ("short", "its file has 1,000 bytes, not 1,000,000"),
        ("endless", "more than the 1,000,000 bytes"),
        ("page", "its file has 26 bytes"),
        ("stall", "silent for 0.5 seconds"),
        ("header", "silent for 0.5 seconds"),
        ("slow", "kB a second"),
        ("crumbs", "kB a second"),
    ],
)
def test_a_place_that_misbehaves_is_left_for_the_next_and_named_if_there_is_none(fetch, monkeypatch, name, reason):
    silent = name in ("stall", "header")
    if silent:  # the others may be so for a moment, on a busy machine
        monkeypatch.setattr(room, "CONNECT_OR_STALL", 0.5)
    monkeypatch.setattr(room, "RATE_WINDOW", 0.3)
    monkeypatch.setattr(room, "LEAST_RATE", 10_000_000)
    if name in ("slow", "crumbs"):
        monkeypatch.setattr(room, "LEAST_AT_ALL", 5_000_000)
    with pytest.raises(ConnectionError, match=rf"archive\.tar\.gz could not be downloaded \(http.*/{name}: .*{reason}"):
        fetch(name)
    assert not fetch.path.exists()
    monkeypatch.setattr(room, "LEAST_RATE", 10_000)
    if silent:
        monkeypatch.setattr(room, "CONNECT_OR_STALL", 2)  # for the good place, too
    assert fetch(name, "good") == CONTENT


def test_a_slow_place_is_better_than_none(fetch, monkeypatch):
    monkeypatch.setattr(room, "RATE_WINDOW", 0.2)
    monkeypatch.setattr(room, "LEAST_RATE", 10_000_000)
    assert fetch("slow", "busy") == CONTENT


def test_a_full_disk_is_no_fault_of_the_places(fetch, server):
    disk = fetch.path.parent
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        with pytest.raises(OSError, match="No space left"):
            fetch("good", "no_length")
        assert [name for name, _ in server.seen] == ["/good"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_only_http_is_followed(tmp_path):
    with pytest.raises(ConnectionError, match=r"file:///etc/passwd: expected an address that starts with http"):
        download(["file:///etc/passwd"], tmp_path / "x", size=10, md5=MD5)


PROGRAM = """
import sys, types
from pathlib import Path
package = types.ModuleType("eva_utils")  # without its __init__, which imports for seconds
package.__path__ = [sys.argv[5]]
sys.modules["eva_utils"] = package
from eva_utils.download import download
download([sys.argv[1]], Path(sys.argv[2]), size=int(sys.argv[3]), md5=sys.argv[4], verbose=False)
"""


def start(server, name, path):
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, f"http://127.0.0.1:{server.server_port}/{name}"]
    return subprocess.Popen([*command, str(path), str(len(CONTENT)), MD5, str(Path(room.__file__).parent)])


def test_two_processes_fetch_it_once(server, tmp_path):
    path = tmp_path / "archive.tar.gz"
    processes = [start(server, "slow", path) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert path.read_bytes() == CONTENT
    assert len(server.seen) == 1


def test_a_killed_download_goes_on(server, fetch):
    process = start(server, "slow", fetch.path)
    end = time.monotonic() + 30
    while (not fetch.part.exists() or not fetch.part.stat().st_size) and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    have = fetch.part.stat().st_size
    assert 0 < have < len(CONTENT)
    assert fetch("good") == CONTENT
    assert server.seen[-1] == ("/good", f"bytes={have}-")
