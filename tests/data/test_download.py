"""Downloads from a real local server, and archives that must not be trusted."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from paddleseg_slim.data import download
from paddleseg_slim.data.archive import unpack
from paddleseg_slim.errors import UserError

CONTENT = os.urandom(300_000)
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Server:
    """A server of one file, which can break off, and a record of what was asked of it."""

    def __init__(self) -> None:
        self.break_after: int | None = None
        self.content, self.version = CONTENT, '"1"'
        self.ranges: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                outer.ranges.append(asked)
                if self.path.startswith("/gone"):
                    self.send_error(404)
                    return
                start = int(asked[6:-1]) if asked and self.headers.get("If-Range") == outer.version else 0
                self.send_response(206 if start else 200)
                self.send_header("ETag", outer.version)
                self.send_header("Content-Length", str(len(outer.content) - start))
                self.end_headers()
                stop = len(outer.content) if outer.break_after is None else outer.break_after
                self.wfile.write(outer.content[start:stop])

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running = Server()
    yield running
    running.close()


def test_a_file_is_downloaded_once_and_checked(server, tmp_path):
    path = download.fetch(server.url + "/a%20b.bin?x=1", tmp_path, SHA256)
    assert path == tmp_path / "a b.bin" and path.read_bytes() == CONTENT
    assert download.fetch(server.url + "/a%20b.bin", tmp_path) == path
    assert len(server.ranges) == 1


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path):
    server.break_after = 100_000
    with pytest.raises(UserError, match="cannot be downloaded"):
        download.fetch(server.url + "/a.bin", tmp_path, SHA256)
    assert not (tmp_path / "a.bin").exists()
    assert (tmp_path / "a.bin.part").stat().st_size == 100_000
    server.break_after = None
    assert download.fetch(server.url + "/a.bin", tmp_path, SHA256).read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=100000-"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.bin.lock"]


def test_a_file_that_changed_meanwhile_is_taken_anew(server, tmp_path):
    server.break_after = 100_000
    with pytest.raises(UserError):
        download.fetch(server.url + "/a.bin", tmp_path)
    server.break_after, server.content, server.version = None, CONTENT[::-1], '"2"'
    assert download.fetch(server.url + "/a.bin", tmp_path).read_bytes() == CONTENT[::-1]


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(UserError, match="checksum sha256:"):
        download.fetch(server.url + "/a.bin", tmp_path, "sha256:" + "0" * 64)
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin.lock"]


def test_what_cannot_be_reached_says_where_to_put_the_file(server, tmp_path):
    with pytest.raises(UserError, match="404") as caught:
        download.fetch(server.url + "/gone.bin", tmp_path)
    assert str(tmp_path / "gone.bin") in caught.value.remedy
    server.close()
    with pytest.raises(UserError, match="cannot be downloaded") as caught:
        download.fetch(server.url + "/a.bin", tmp_path)
    assert str(tmp_path / "a.bin") in caught.value.remedy
    with pytest.raises(UserError, match="no address"):
        download.fetch("file:///etc/passwd", tmp_path)


def test_several_processes_download_once(server, tmp_path):
    code = "import sys; from paddleseg_slim.data.download import fetch; fetch(sys.argv[1], sys.argv[2])"
    command = [sys.executable, "-c", code, server.url + "/a.bin", str(tmp_path)]
    running = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
    assert len(server.ranges) == 1 and (tmp_path / "a.bin").read_bytes() == CONTENT


def make_zip(path, files):
    with zipfile.ZipFile(path, "w") as box:
        for name, content in files.items():
            box.writestr(name, content)
    return path


def make_tar(path, files, **extra):
    with tarfile.open(path, "w:gz") as tape:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in extra.items():
                setattr(info, key, value)
            tape.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_the_single_folder_of_an_archive_becomes_the_folder(tmp_path, make):
    packed = make(tmp_path / "x", {"data/a.txt": b"1", "data/b/c.txt": b"2", "__MACOSX/._a": b""})
    assert (unpack(packed, tmp_path / "named") / "b" / "c.txt").read_bytes() == b"2"
    flat = make(tmp_path / "y", {"a.txt": b"1", "b/c.txt": b"2"})
    assert (unpack(flat, tmp_path / "flat") / "a.txt").read_bytes() == b"1"


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil", "C:\\evil"])
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_no_entry_leads_out_of_the_folder(tmp_path, make, name):
    packed = make(tmp_path / "x", {"fine": b"1", name: b"2"})
    with pytest.raises(UserError, match="refused"):
        unpack(packed, tmp_path / "inner" / "folder")
    assert not list(tmp_path.rglob("*evil*")) and not (tmp_path / "inner" / "folder").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    packed = make_tar(tmp_path / "x", {"link": b""}, type=kind, linkname="/etc/passwd")
    with pytest.raises(UserError, match="link or a device"):
        unpack(packed, tmp_path / "folder")
    box = tmp_path / "x.zip"
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(box, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="link or a device"):
        unpack(box, tmp_path / "folder")


def test_bombs_and_damage_leave_nothing(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as box:
        box.writestr("zeros", bytes(1 << 20))
        box.infolist()[0].file_size = 10**12  # as its directory says then
    with pytest.raises(UserError, match="refused"):
        unpack(tmp_path / "bomb", tmp_path / "folder")
    with zipfile.ZipFile(tmp_path / "liar", "w", zipfile.ZIP_DEFLATED) as box:
        box.writestr("zeros", bytes(1 << 20))
        box.infolist()[0].file_size = 1000
    with pytest.raises(UserError, match="liar"):
        unpack(tmp_path / "liar", tmp_path / "folder")
    whole = make_tar(tmp_path / "x", {"a": os.urandom(100_000)}).read_bytes()
    for content in (whole[:50_000], whole[:50_000] + bytes(1000) + whole[51_000:], b"no archive", b""):
        (tmp_path / "cut").write_bytes(content)
        with pytest.raises(UserError, match="cut"):
            unpack(tmp_path / "cut", tmp_path / "folder")
        assert not (tmp_path / "folder").exists()


def test_a_dataset_folder(server, tmp_path):
    server.content = make_zip(tmp_path / "z.zip", {"optic/train.txt": b"x"}).read_bytes()
    folder = download.fetch_folder(server.url + "/optic.zip", tmp_path / "data" / "mine")
    assert (folder / "train.txt").read_bytes() == b"x"
    assert download.fetch_folder(server.url + "/optic.zip", folder) == folder and len(server.ranges) == 1
    assert not (tmp_path / "data" / "optic.zip").exists()


def test_weights_by_path_address_and_archive(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SEG_HOME", str(tmp_path / "home"))
    file = tmp_path / "model.pdparams"
    file.write_bytes(b"weights")
    assert download.fetch_weights(str(file)) == file
    one = download.fetch_weights(server.url + "/a/model.pdparams")
    two = download.fetch_weights(server.url + "/b/model.pdparams")
    assert one != two and one.read_bytes() == CONTENT  # the same name at two addresses
    packed = make_tar(tmp_path / "m.tar.gz", {"m/model.pdparams": b"w", "m/readme": b"r"})
    assert download.fetch_weights(str(packed)).read_bytes() == b"w"
    server.content = packed.read_bytes()
    assert download.fetch_weights(server.url + "/m.tar.gz").read_bytes() == b"w"
    several = make_tar(tmp_path / "n.tar", {"a.pdparams": b"w", "b.pdparams": b"r"})
    with pytest.raises(UserError, match="2 files of weights"):
        download.fetch_weights(str(several))
    with pytest.raises(UserError, match="does not exist"):
        download.fetch_weights(str(tmp_path / "gone.pdparams"))
