"""Fetching, against a real HTTP server that misbehaves in every way the real ones do."""

import bz2
import hashlib
import http.server
import io
import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
import urllib3

from styleclip_export import cli
from styleclip_export.errors import FetchError
from styleclip_export.fetch.download import Downloader
from styleclip_export.fetch.execution import carry_out
from styleclip_export.fetch.lock_file import LOCK
from styleclip_export.fetch.manifest import (
    File,
    FileVariant,
    License,
    Manifest,
    known_domains,
    load_manifest,
)
from styleclip_export.fetch.plan import make_plan

DATA = b"\x80" + random.Random(1).randbytes(700_000) + b"."
SIZE = len(DATA)
OTHER = b"\x80" + random.Random(2).randbytes(700_000) + b"."
# A shell that runs the tests in the background has them ignore Ctrl-C; processes inherit that.
RUN = """
import signal
from styleclip_export.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""
LICENSE = License("for tests", "https://example.org/license", True)


def sha(data):
    return hashlib.sha256(data).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.data`; the path says how: /good, /drop, /html, ... (see do_GET)."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        way = self.path.strip("/").split("/")[0]
        data, given = self.server.data, self.headers.get("Range")
        self.server.requests.append((way, given, self.headers.get("If-Range")))
        seen = sum(request[0] == way for request in self.server.requests)
        if way in ("404", "500") or (way == "500once" and seen == 1):
            return self.answer(int(way[:3]), b"no")
        if way == "html":
            return self.answer(200, b"<!DOCTYPE html><html>Quota exceeded</html>")
        if way == "htmltype":
            return self.answer(200, DATA, {"Content-Type": "text/html; charset=utf-8"})
        if way == "wrong":
            return self.answer(200, OTHER)
        if way == "moved":
            return self.answer(302, b"", {"Location": "/good"})
        if way == "loop":
            return self.answer(302, b"", {"Location": "/loop"})
        if way == "short":  # announces less than there is
            return self.answer(200, data[:1000])
        headers = {"ETag": f'"{sha(data)}"'} if way != "noetag" else {}
        start = 0
        if given and way != "norange":
            start = int(re.match(r"bytes=(\d+)-", given)[1])
            condition = self.headers.get("If-Range")
            if condition and condition != headers.get("ETag"):
                start = 0
            elif start >= len(data):
                return self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        body = data[start:]
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        extra = 5000 if way == "long" else 0  # announces more than there is
        self.send_response(206 if start else 200)
        headers["Content-Length"] = str(len(body) + extra)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if way in ("drop", "noetag", "norange") and seen == 1:
            body = body[:300_000]
        if way == "dropalways":
            body = body[: 100_000 if not start else 0]
        if way == "crumbs":
            body = body[:100_000]
        if way == "hang" and seen == 1:
            self.wfile.write(body[:300_000])
            self.server.sent += 300_000
            self.server.release.wait(20)
            body = b""
        self.wfile.write(body)
        self.server.sent += len(body)
        self.close_connection = True

    def answer(self, status, body, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.server.sent += len(body)


@pytest.fixture
def server():
    """The server; `sent` counts body bytes, `requests` holds (way, Range, If-Range)."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        running.data, running.requests, running.sent = DATA, [], 0
        running.release = threading.Event()
        running.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.release.set()
        running.shutdown()
        thread.join()


class Recorder:
    """A reporter that keeps the messages."""

    def __init__(self):
        self.messages = []

    def progress(self, name, size, total):
        assert size >= 0 and (total is None or size <= total)

    def message(self, line):
        self.messages.append(line)


def a_file(*urls, name="a.pkl", known=True, size=SIZE, kind="pickle", **more):
    return File(
        name,
        sha(DATA) if known else None,
        size,
        kind,
        what="a test",
        license=LICENSE,
        urls=urls,
        **more,
    )


def fetch(folder, *files, **options):
    """Plan and carry out with few retries; return the messages."""
    recorder = Recorder()
    retries = urllib3.Retry(
        total=3, backoff_factor=0, status_forcelist=(500,), raise_on_status=False
    )
    downloader = Downloader(threading.Event(), retries, urllib3.Timeout(5))
    plan = make_plan(Manifest("test", "A test", files), folder, **options)
    carry_out(plan, recorder, downloader=downloader)
    return " | ".join(recorder.messages)


def lock_of(folder):
    return json.loads((folder / LOCK).read_text())


@pytest.mark.parametrize(
    "way", ["good", "drop", "crumbs", "moved", "500once", "long", "norange", "noetag"]
)
@pytest.mark.parametrize("known", [True, False])
def test_a_file_arrives_complete_whatever_the_server_does(server, tmp_path, way, known):
    fetch(tmp_path, a_file(f"{server.url}/{way}", known=known))
    assert (tmp_path / "a.pkl").read_bytes() == DATA
    assert {path.name for path in tmp_path.iterdir()} == {"a.pkl", LOCK}
    assert lock_of(tmp_path)["a.pkl"]["sha256"] == sha(DATA)


@pytest.mark.parametrize("way", ["drop", "crumbs"])
def test_after_a_broken_connection_only_the_missing_bytes_are_sent(server, tmp_path, way):
    fetch(tmp_path, a_file(f"{server.url}/{way}", known=False))
    assert server.sent == len(DATA)
    assert server.requests[1][1:] == (
        f"bytes={300_000 if way == 'drop' else 100_000}-",
        f'"{sha(DATA)}"',
    )


def test_a_second_run_resumes_the_part_file(server, tmp_path):
    file = a_file(f"{server.url}/dropalways", known=False)
    with pytest.raises(FetchError, match="keeps breaking off, now at byte 100,000"):
        fetch(tmp_path, file)
    assert (tmp_path / "a.pkl.part").stat().st_size == 100_000
    assert not (tmp_path / "a.pkl").exists()
    server.sent = 0
    fetch(tmp_path, a_file(f"{server.url}/dropalways", f"{server.url}/good"))
    assert (tmp_path / "a.pkl").read_bytes() == DATA
    assert server.sent == len(DATA) - 100_000, "a known hash lets another address finish it"


def test_a_part_of_another_version_is_not_joined_with_the_new_one(server, tmp_path):
    server.data = OTHER
    with pytest.raises(FetchError):
        fetch(tmp_path, a_file(f"{server.url}/dropalways", known=False))
    server.data = DATA
    server.requests.clear()
    part = tmp_path / "a.pkl.part"
    origin = tmp_path / "a.pkl.part.json"
    noted = json.loads(origin.read_text())
    origin.write_text(json.dumps(noted | {"url": f"{server.url}/good"}))
    assert part.stat().st_size == 100_000
    fetch(tmp_path, a_file(f"{server.url}/good", known=False))
    assert server.requests == [("good", "bytes=100000-", f'"{sha(OTHER)}"')]
    assert (tmp_path / "a.pkl").read_bytes() == DATA


def test_a_corrupted_part_is_discarded_and_downloaded_again(server, tmp_path):
    (tmp_path / "a.pkl.part").write_bytes(OTHER[:200_000])
    fetch(tmp_path, a_file(f"{server.url}/good"))
    assert (tmp_path / "a.pkl").read_bytes() == DATA


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("404", "answers 404 Not Found"),
        ("500", "answers 500"),
        ("html", "answers with a web page"),
        ("htmltype", "answers with a web page"),
        ("wrong", "gave a wrong file: its SHA-256 is .*, expected .*looks like a pickle"),
        ("short", "gave a wrong file"),
        ("loop", "does not answer: too many redirects"),
    ],
)
def test_a_bad_answer_is_named_and_the_next_address_tried(server, tmp_path, way, message):
    with pytest.raises(FetchError, match=message):
        fetch(tmp_path, a_file(f"{server.url}/{way}"))
    assert not (tmp_path / "a.pkl").exists()
    said = fetch(tmp_path, a_file(f"{server.url}/{way}", f"{server.url}/good"))
    assert "trying the next address" in said
    assert (tmp_path / "a.pkl").read_bytes() == DATA


def test_a_server_that_is_not_there_is_named(server, tmp_path):
    with pytest.raises(FetchError, match=r"does not answer.*refused"):
        fetch(tmp_path, a_file("http://127.0.0.1:9/good"))


def test_an_unknown_file_that_is_of_another_kind_is_refused(server, tmp_path):
    npy = a_file(f"{server.url}/good", known=False, name="a.npy", kind="npy")
    with pytest.raises(FetchError, match=r"answers with a pickle, not with a\.npy"):
        fetch(tmp_path, npy)


def test_a_truncated_archive_of_unknown_hash_is_refused(server, tmp_path):
    server.data = archive(b"latent_avg")
    file = a_file(f"{server.url}/short", known=False, name="e4e.pt", kind="torch")
    with pytest.raises(FetchError, match="truncated zip archive"):
        fetch(tmp_path, file)
    fetch(tmp_path, a_file(f"{server.url}/good", known=False, name="e4e.pt", kind="torch"))
    file = a_file(f"{server.url}/good", known=False, name="b.pt", kind="torch", marks=(b"styles",))
    with pytest.raises(FetchError, match="nothing in it is named 'styles'"):
        fetch(tmp_path, file)


def test_the_first_hash_is_locked_and_reported_and_another_file_refused(server, tmp_path):
    file = a_file(f"{server.url}/good", known=False)
    said = fetch(tmp_path, file)
    assert f"its published SHA-256 is not known; {sha(DATA)} is now in {LOCK}" in said
    assert fetch(tmp_path, file) == "" and len(server.requests) == 1
    (tmp_path / "a.pkl").unlink()
    server.data = OTHER
    with pytest.raises(FetchError, match=f"expected {sha(DATA)}.*in {re.escape(LOCK)}; delete"):
        fetch(tmp_path, file)
    (tmp_path / "a.pkl").write_bytes(OTHER)
    with pytest.raises(FetchError, match=f"expected {sha(DATA)}; move it away"):
        fetch(tmp_path, file)


def test_a_damaged_file_in_the_folder_is_an_error_and_is_kept(server, tmp_path):
    (tmp_path / "a.pkl").write_bytes(DATA[:-1])
    with pytest.raises(FetchError, match="move it away"):
        fetch(tmp_path, a_file(f"{server.url}/good"))
    assert (tmp_path / "a.pkl").read_bytes() == DATA[:-1]
    assert server.requests == []


def test_several_files_are_fetched_and_a_failure_affects_no_other(server, tmp_path):
    files = [a_file(f"{server.url}/drop/{i}", name=f"f{i}.pkl") for i in range(4)]
    with pytest.raises(FetchError, match=r"^bad\.pkl: .*404"):
        fetch(tmp_path, *files, a_file(f"{server.url}/404", name="bad.pkl"))
    assert all((tmp_path / f"f{i}.pkl").read_bytes() == DATA for i in range(4))


def test_a_full_disk_is_noticed_before_anything_is_requested(server, tmp_path):
    with pytest.raises(FetchError, match="MB free; make room"):
        fetch(tmp_path, a_file(f"{server.url}/good", size=10**18))
    assert server.requests == []


def test_two_processes_do_not_write_one_part_file(server, tmp_path):
    import fcntl

    with (tmp_path / "a.pkl.part").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(FetchError, match="being written by another process"):
            fetch(tmp_path, a_file(f"{server.url}/good"))


# --from


def archive(words):
    """A zip archive as torch.save writes one, as far as recognising goes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as writing:
        writing.writestr("archive/data.pkl", b"\x80\x02" + words)
        writing.writestr("archive/data/0", random.Random(3).randbytes(50_000))
    return stream.getvalue()


@pytest.fixture
def mine(tmp_path):
    folder = tmp_path / "mine" / "deeper"
    folder.mkdir(parents=True)
    return folder


def test_a_file_of_known_hash_is_found_under_any_name(tmp_path, mine):
    (mine / "noise.bin").write_bytes(OTHER)
    own = mine / "what was it.bak"
    own.write_bytes(DATA)
    before = own.stat()
    said = fetch(tmp_path / "to", a_file(), sources=[tmp_path / "mine"])
    assert (tmp_path / "to" / "a.pkl").read_bytes() == DATA
    assert "recognized by SHA-256" in said
    after = own.stat()
    assert (own.read_bytes(), after.st_mtime_ns, after.st_mode) == (
        DATA, before.st_mtime_ns, before.st_mode,
    )  # fmt: skip


def test_a_file_of_unknown_hash_is_found_by_its_name_and_locked(tmp_path, mine):
    (mine / "A.PKL").write_bytes(DATA)
    said = fetch(tmp_path / "to", a_file(known=False), sources=[mine])
    assert "recognized by name and kind" in said and "is now in" in said
    assert lock_of(tmp_path / "to")["a.pkl"]["sha256"] == sha(DATA)


def test_a_file_of_unknown_hash_is_found_by_its_contents(tmp_path, mine):
    data = archive(b"latent_avg encoder.input_layer")
    (mine / "renamed.bin").write_bytes(data)
    (mine / "other.pt").write_bytes(archive(b"g_ema"))
    file = File("e4e.pt", None, len(data), "torch", (b"latent_avg",), "e4e", LICENSE)
    said = fetch(tmp_path / "to", file, sources=[mine])
    assert "recognized by contents" in said
    assert (tmp_path / "to" / "e4e.pt").read_bytes() == data


def test_of_two_files_that_match_neither_is_chosen(tmp_path, mine):
    for name in ("one", "two"):
        (mine / name).write_bytes(archive(b"latent_avg" + name.encode()))
    file = File("e4e.pt", None, 50_000, "torch", (b"latent_avg",), "e4e", LICENSE, ("http://x",))
    plan = make_plan(Manifest("t", "t", (file,)), tmp_path / "to", [mine])
    assert plan.missing == [file]
    assert "several files may be e4e.pt" in plan.warnings[0]


def test_another_form_of_a_file_serves_as_well(tmp_path, mine):
    (mine / "points.dat").write_bytes(DATA)
    packed = bz2.compress(DATA)
    file = File(
        "p.dat.bz2", sha(packed), len(packed), "bzip2", what="p", license=LICENSE,
        urls=("http://127.0.0.1:9/",),
        alternatives=(FileVariant("p.dat", sha(DATA), len(DATA), "any"),),
    )  # fmt: skip
    fetch(tmp_path / "to", file, sources=[mine])
    assert (tmp_path / "to" / "p.dat").read_bytes() == DATA
    assert fetch(tmp_path / "to", file) == "", "and is enough the next time"


def test_a_modified_file_is_taken_only_on_request_and_marked(tmp_path, mine):
    (mine / "a.pkl").write_bytes(OTHER)
    file = a_file("http://127.0.0.1:9/")
    plan = make_plan(Manifest("t", "t", (file,)), tmp_path / "to", [mine])
    assert plan.missing == [file] and "--allow-modified" in plan.warnings[0]
    said = fetch(tmp_path / "to", file, sources=[mine], allow_modified=True)
    assert "NOT the published file" in said
    assert lock_of(tmp_path / "to")["a.pkl"]["published"] is False
    assert fetch(tmp_path / "to", file) == "", "and is known the next time"


def test_a_web_page_saved_under_the_name_is_refused(tmp_path, mine):
    (mine / "a.pkl").write_bytes(b"<html>Virus scan warning</html>")
    with pytest.raises(FetchError, match="not published anywhere"):
        fetch(tmp_path / "to", a_file(known=False), sources=[mine])


def test_a_copy_is_made_across_file_systems(tmp_path):
    own = Path("/dev/shm") / f"styleclip-test-{os.getpid()}.pkl"
    try:
        own.write_bytes(DATA)
    except OSError:
        pytest.skip("no second file system to try with")
    try:
        said = fetch(tmp_path / "to", a_file(), sources=[own])
        assert (tmp_path / "to" / "a.pkl").read_bytes() == DATA
        if own.stat().st_dev != tmp_path.stat().st_dev:
            assert "(copy;" in said
    finally:
        own.unlink()


# Google Drive


def test_files_on_google_drive_are_downloaded_by_gdown(server, tmp_path, monkeypatch):
    """gdown itself runs, on an address of the local server in place of Google's."""
    pytest.importorskip("gdown")
    monkeypatch.setattr("styleclip_export.fetch.google_drive.HOSTS", ("127.0.0.1",))
    fetch(tmp_path, a_file(f"{server.url}/drop", known=False))
    assert (tmp_path / "a.pkl").read_bytes() == DATA
    assert {path.name for path in tmp_path.iterdir()} == {"a.pkl", LOCK}
    with pytest.raises(FetchError, match=r"b\.pkl: .*cannot be downloaded: 404"):
        fetch(tmp_path, a_file(f"{server.url}/404", name="b.pkl"))


def test_without_gdown_the_message_says_what_to_install(server, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", None)
    drive = "https://drive.google.com/uc?id=x"
    with pytest.raises(FetchError, match="pip install gdown"):
        fetch(tmp_path, a_file(drive))
    fetch(tmp_path, a_file(drive, f"{server.url}/good"))
    assert (tmp_path / "a.pkl").read_bytes() == DATA


# The command


@pytest.fixture
def manifest_file(server, tmp_path):
    """Writes a manifest of one file, served in the given way."""

    def write(way, known=True):
        file = {
            "name": "a.pkl", "what": "a test", "licence": "l", "kind": "pickle",
            "sha256": sha(DATA) if known else None, "size": len(DATA),
            "urls": [f"{server.url}/{way}"],
        }  # fmt: skip
        licence = {"title": "for tests", "url": "https://example.org", "non_commercial": True}
        path = tmp_path / "test.json"
        path.write_text(
            json.dumps({"domain": "t", "title": "T", "licences": {"l": licence}, "files": [file]})
        )
        return str(path)

    return write


def test_without_a_terminal_licenses_must_be_accepted_beforehand(
    server, tmp_path, manifest_file, capsys
):
    to = tmp_path / "to"
    arguments = ["fetch", manifest_file("good"), "--to", str(to)]
    assert cli.run(arguments) == 1
    output = capsys.readouterr()
    assert "NON-COMMERCIAL: for tests" in output.out and "https://example.org" in output.out
    assert "FetchError: the licenses above must be accepted" in output.err
    assert output.err.count("\n") == 1 and not to.exists() and server.requests == []
    assert cli.run([*arguments, "--accept-licences"]) == 0
    assert (to / "a.pkl").read_bytes() == DATA
    assert cli.run(arguments) == 0, "nothing to fetch, nothing to ask"
    assert "already there, checked" in capsys.readouterr().out


@pytest.mark.parametrize(("word", "status"), [(b"n\n", 1), (b"y\n", 0)])
def test_on_a_terminal_the_user_is_asked_to_accept(server, tmp_path, manifest_file, word, status):
    master, slave = pty.openpty()
    to = tmp_path / "to"
    with subprocess.Popen(
        [sys.executable, "-c", RUN, "fetch", manifest_file("good"), "--to", str(to)],
        stdin=slave, stdout=slave, stderr=slave,
    ) as process:  # fmt: skip
        os.close(slave)
        os.write(master, word)
        shown = b""
        try:
            while block := os.read(master, 4096):
                shown += block
        except OSError:  # the terminal's other end is closed
            pass
    os.close(master)
    assert process.returncode == status, shown
    assert b"Do you accept these licenses?" in shown
    assert (to / "a.pkl").exists() == (status == 0)
    assert (b"were not accepted" in shown) == (status == 1)


def test_an_interrupt_keeps_the_part_and_the_next_run_requests_only_the_rest(
    server, tmp_path, manifest_file
):
    to = tmp_path / "to"
    arguments = ["fetch", manifest_file("hang", known=False), "--to", str(to), "--accept-licences"]
    with subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        part, end = to / "a.pkl.part", time.monotonic() + 60
        while not (part.exists() and part.stat().st_size == 300_000):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 130
    assert "Traceback" not in errors and "interrupted" in errors
    assert part.stat().st_size == 300_000
    server.sent = 0
    server.release.set()
    assert cli.run(arguments) == 0
    assert (to / "a.pkl").read_bytes() == DATA
    assert server.sent == len(DATA) - 300_000
    assert server.requests[1] == ("hang", "bytes=300000-", f'"{sha(DATA)}"')


@pytest.mark.parametrize(
    "change",
    [
        {"files": [{"name": "../up"}]},
        {"licences": 3},
        {"domain": "a/b"},
        {"files": None},
    ],
)
def test_a_bad_manifest_is_refused_by_one_line(manifest_file, capsys, change):
    path = Path(manifest_file("good"))
    raw = json.loads(path.read_text())
    if isinstance(change.get("files"), list):
        change = {"files": [raw["files"][0] | change["files"][0]]}
    path.write_text(json.dumps(raw | change))
    assert cli.run(["fetch", str(path)]) == 1
    assert "is not a manifest" in capsys.readouterr().err


def test_errors_about_unknown_domains_and_files_list_the_known_ones(capsys, tmp_path):
    assert cli.run(["fetch", "dogs"]) == 1
    assert "known domains: ffhq" in capsys.readouterr().err
    assert cli.run(["fetch", "ffhq", "--only", "x.pt", "--to", str(tmp_path)]) == 1
    assert "its files are e4e_ffhq_encode.pt" in capsys.readouterr().err


@pytest.mark.parametrize("domain", known_domains())
def test_a_shipped_manifest_names_the_terms_and_addresses_of_each_needed_file(domain):
    for file in load_manifest(domain).files:
        assert file.license.title and file.license.url.startswith("https://")
        assert file.optional or file.urls
        if file.sha256 is None:
            assert all(url.startswith("https://") for url in file.urls)
