"""Fetching from a real HTTP server that misbehaves in every way that real ones do."""

import hashlib
import json
import re
import sys
import time
from email.utils import formatdate
from types import SimpleNamespace

import pytest

from download_server import DATA, OTHER, sha256
from fetching import Recorder, archive, fetch, lock_of, make_file
from styleclip_export.errors import FetchError
from styleclip_export.fetch.fetcher import fetch_files
from styleclip_export.fetch.lock_file import LOCK, LockFile
from styleclip_export.fetch.manifest import Manifest, ReportedHash
from styleclip_export.fetch.plan import plan_fetch


@pytest.mark.parametrize(
    "behavior", ["good", "drop", "crumbs", "moved", "500once", "long", "norange", "noetag"]
)
@pytest.mark.parametrize("known", [True, False])
def test_a_file_arrives_complete_whatever_the_server_does(file_server, tmp_path, behavior, known):
    fetch(tmp_path, make_file(f"{file_server.url}/{behavior}", known=known))
    assert (tmp_path / "a.pkl").read_bytes() == DATA
    assert {path.name for path in tmp_path.iterdir()} == {"a.pkl", LOCK}
    assert lock_of(tmp_path)["a.pkl"]["sha256"] == sha256(DATA)


@pytest.mark.parametrize("behavior", ["drop", "crumbs"])
def test_after_a_broken_connection_only_the_missing_bytes_are_sent(file_server, tmp_path, behavior):
    fetch(tmp_path, make_file(f"{file_server.url}/{behavior}", known=False))
    assert file_server.sent == len(DATA)
    assert file_server.requests[1][1:] == (
        f"bytes={300_000 if behavior == 'drop' else 100_000}-",
        f'"{sha256(DATA)}"',
    )


@pytest.mark.parametrize(("age", "resumes"), [(3600, True), (-60, False), (None, False)])
def test_without_an_etag_only_an_older_last_modified_resumes(file_server, tmp_path, age, resumes):
    modified = "not a date" if age is None else formatdate(time.time() - age, usegmt=True)
    file_server.modified = modified
    fetch(tmp_path, make_file(f"{file_server.url}/noetag", known=False))
    assert (tmp_path / "a.pkl").read_bytes() == DATA
    second = ("bytes=300000-", modified) if resumes else (None, None)
    assert file_server.requests[1][1:] == second


def test_a_second_run_resumes_the_part_file(file_server, tmp_path):
    file = make_file(f"{file_server.url}/dropalways", known=False)
    with pytest.raises(FetchError, match="keeps breaking off, now at byte 100,000"):
        fetch(tmp_path, file)
    assert (tmp_path / "a.pkl.part").stat().st_size == 100_000
    assert not (tmp_path / "a.pkl").exists()
    file_server.sent = 0
    fetch(tmp_path, make_file(f"{file_server.url}/dropalways", f"{file_server.url}/good"))
    assert (tmp_path / "a.pkl").read_bytes() == DATA
    assert file_server.sent == len(DATA) - 100_000, "a known hash lets another address finish it"


def test_a_part_of_another_version_is_not_joined_with_the_new_one(file_server, tmp_path):
    file_server.data = OTHER
    with pytest.raises(FetchError):
        fetch(tmp_path, make_file(f"{file_server.url}/dropalways", known=False))
    file_server.data = DATA
    file_server.requests.clear()
    part = tmp_path / "a.pkl.part"
    origin = tmp_path / "a.pkl.part.json"
    recorded = json.loads(origin.read_text())
    origin.write_text(json.dumps(recorded | {"url": f"{file_server.url}/good"}))
    assert part.stat().st_size == 100_000
    fetch(tmp_path, make_file(f"{file_server.url}/good", known=False))
    assert file_server.requests == [("good", "bytes=100000-", f'"{sha256(OTHER)}"')]
    assert (tmp_path / "a.pkl").read_bytes() == DATA


def test_a_corrupted_part_is_discarded_and_downloaded_again(file_server, tmp_path):
    (tmp_path / "a.pkl.part").write_bytes(OTHER[:200_000])
    fetch(tmp_path, make_file(f"{file_server.url}/good"))
    assert (tmp_path / "a.pkl").read_bytes() == DATA


@pytest.mark.parametrize(
    ("behavior", "message"),
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
def test_a_bad_response_is_reported_and_the_next_address_tried(
    file_server, tmp_path, behavior, message
):
    with pytest.raises(FetchError, match=message):
        fetch(tmp_path, make_file(f"{file_server.url}/{behavior}"))
    assert not (tmp_path / "a.pkl").exists()
    messages = fetch(
        tmp_path, make_file(f"{file_server.url}/{behavior}", f"{file_server.url}/good")
    )
    assert "trying the next address" in messages
    assert (tmp_path / "a.pkl").read_bytes() == DATA


def test_an_unreachable_server_is_reported_soon(tmp_path, monkeypatch):
    pauses, recorder = [], Recorder()
    monkeypatch.setattr("urllib3.util.retry.time", SimpleNamespace(sleep=pauses.append))
    manifest = Manifest("test", "A test", (make_file("http://127.0.0.1:9/good"),))
    with pytest.raises(FetchError, match=r"does not answer.*refused.*with --from"):
        fetch_files(plan_fetch(manifest, tmp_path), recorder)
    assert sum(pauses) < 5, "with the retries of users"
    assert "a.pkl: downloading from 127.0.0.1 …" in recorder.messages
    assert not list(tmp_path.iterdir()), "no empty part"


def test_an_unknown_file_that_is_of_another_kind_is_refused(file_server, tmp_path):
    npy = make_file(f"{file_server.url}/good", known=False, name="a.npy", kind="npy")
    with pytest.raises(FetchError, match=r"answers with a pickle, not with a\.npy"):
        fetch(tmp_path, npy)


def test_a_truncated_archive_of_unknown_hash_is_refused(file_server, tmp_path):
    file_server.data = archive(b"latent_avg")
    file = make_file(f"{file_server.url}/short", known=False, name="e4e.pt", kind="torch")
    with pytest.raises(FetchError, match="truncated zip archive"):
        fetch(tmp_path, file)
    fetch(tmp_path, make_file(f"{file_server.url}/good", known=False, name="e4e.pt", kind="torch"))
    file = make_file(
        f"{file_server.url}/good", known=False, name="b.pt", kind="torch", marks=(b"styles",)
    )
    with pytest.raises(FetchError, match="nothing in it is named 'styles'"):
        fetch(tmp_path, file)


def test_the_first_hash_is_pinned_and_a_different_file_refused(file_server, tmp_path):
    file = make_file(f"{file_server.url}/good", known=False)
    messages = fetch(tmp_path, file)
    assert f"its published SHA-256 is not known; {sha256(DATA)} is now in {LOCK}" in messages
    assert fetch(tmp_path, file) == "" and len(file_server.requests) == 1
    (tmp_path / "a.pkl").unlink()
    file_server.data = OTHER
    with pytest.raises(FetchError, match=f"expected {sha256(DATA)}.*in {re.escape(LOCK)}; delete"):
        fetch(tmp_path, file)
    (tmp_path / "a.pkl").write_bytes(OTHER)
    with pytest.raises(FetchError, match=f"expected {sha256(DATA)}; move it away"):
        fetch(tmp_path, file)


def test_a_damaged_file_in_the_folder_is_an_error_and_is_kept(file_server, tmp_path):
    (tmp_path / "a.pkl").write_bytes(DATA[:-1])
    with pytest.raises(FetchError, match="move it away"):
        fetch(tmp_path, make_file(f"{file_server.url}/good"))
    assert (tmp_path / "a.pkl").read_bytes() == DATA[:-1]
    assert file_server.requests == []


def test_several_files_are_fetched_and_a_failure_affects_no_other(file_server, tmp_path):
    files = [make_file(f"{file_server.url}/drop/{i}", name=f"f{i}.pkl") for i in range(4)]
    with pytest.raises(FetchError, match=r"^bad\.pkl: .*404"):
        fetch(tmp_path, *files, make_file(f"{file_server.url}/404", name="bad.pkl"))
    assert all((tmp_path / f"f{i}.pkl").read_bytes() == DATA for i in range(4))


def test_a_full_disk_is_noticed_before_anything_is_requested(file_server, tmp_path):
    with pytest.raises(FetchError, match="MB free; make room"):
        fetch(tmp_path, make_file(f"{file_server.url}/good", size=10**18))
    assert file_server.requests == []


def test_two_processes_do_not_write_one_part_file(file_server, tmp_path):
    import fcntl

    with (tmp_path / "a.pkl.part").open("ab") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        with pytest.raises(FetchError, match="being written by another process"):
            fetch(tmp_path, make_file(f"{file_server.url}/good"))


def test_files_on_google_drive_are_downloaded_by_gdown(file_server, tmp_path, monkeypatch):
    """gdown itself runs, on an address of the local server in place of Google's."""
    pytest.importorskip("gdown")
    monkeypatch.setattr("styleclip_export.fetch.google_drive.HOSTS", ("127.0.0.1",))
    fetch(tmp_path, make_file(f"{file_server.url}/drop", known=False))
    assert (tmp_path / "a.pkl").read_bytes() == DATA
    assert {path.name for path in tmp_path.iterdir()} == {"a.pkl", LOCK}
    with pytest.raises(FetchError, match=r"b\.pkl: .*cannot be downloaded: 404"):
        fetch(tmp_path, make_file(f"{file_server.url}/404", name="b.pkl"))


def test_without_gdown_the_message_says_what_to_install(file_server, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", None)
    drive = "https://drive.google.com/uc?id=x"
    with pytest.raises(FetchError, match="pip install gdown"):
        fetch(tmp_path, make_file(drive))
    fetch(tmp_path, make_file(drive, f"{file_server.url}/good"))
    assert (tmp_path / "a.pkl").read_bytes() == DATA


@pytest.mark.parametrize("kind", ["SHA-256", "Git blob"])
def test_a_hash_that_only_others_report_warns_and_names_both(file_server, tmp_path, kind):
    right = sha256(DATA) if kind == "SHA-256" else git_blob(DATA)
    url = f"{file_server.url}/good"
    for value, warned in ((right, False), ("0" * len(right), True)):
        folder = tmp_path / value
        folder.mkdir()
        file = make_file(url, known=False, reported=ReportedHash(kind, value, "two copies"))
        messages = fetch(folder, file)
        assert (folder / "a.pkl").read_bytes() == DATA
        assert (f"is {right}, but {value} according to two copies" in messages) == warned
        plan = plan_fetch(Manifest("test", "A test", (file,)), folder)
        assert plan.present and len(plan.warnings) == warned


def git_blob(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.mark.parametrize("name", ["license", "licence"])
def test_a_lock_file_with_either_spelling_of_license_is_read(tmp_path, name):
    entry = {"sha256": "0" * 64, "size": 1, "from": "u", "published": True, name: "https://l"}
    (tmp_path / LOCK).write_text(json.dumps({"a.pkl": entry}))
    assert LockFile.read(tmp_path).entries["a.pkl"].license_url == "https://l"
