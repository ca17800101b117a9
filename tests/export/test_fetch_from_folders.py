"""`styleclip-export fetch --from`: files that the user already has."""

import bz2
import os
from pathlib import Path

import pytest

from download_server import DATA, OTHER, sha256
from fetching import LICENSE, archive, fetch, lock_of, make_file
from styleclip_export.errors import FetchError
from styleclip_export.fetch.manifest import File, FileVariant, Manifest
from styleclip_export.fetch.plan import plan_fetch


@pytest.fixture
def user_folder(tmp_path):
    """A folder for the user's own files."""
    folder = tmp_path / "mine" / "deeper"
    folder.mkdir(parents=True)
    return folder


def test_a_file_of_known_hash_is_found_under_any_name(tmp_path, user_folder):
    (user_folder / "noise.bin").write_bytes(OTHER)
    own = user_folder / "what was it.bak"
    own.write_bytes(DATA)
    before = own.stat()
    messages = fetch(tmp_path / "to", make_file(), sources=[tmp_path / "mine"])
    assert (tmp_path / "to" / "a.pkl").read_bytes() == DATA
    assert "recognized by SHA-256" in messages
    after = own.stat()
    assert (own.read_bytes(), after.st_mtime_ns, after.st_mode) == (
        DATA, before.st_mtime_ns, before.st_mode,
    )  # fmt: skip


def test_a_file_of_unknown_hash_is_found_by_its_name_and_pinned(tmp_path, user_folder):
    (user_folder / "A.PKL").write_bytes(DATA)
    messages = fetch(tmp_path / "to", make_file(known=False), sources=[user_folder])
    assert "recognized by name and kind" in messages and "is now in" in messages
    assert lock_of(tmp_path / "to")["a.pkl"]["sha256"] == sha256(DATA)


def test_a_file_of_unknown_hash_is_found_by_its_contents(tmp_path, user_folder):
    data = archive(b"latent_avg encoder.input_layer")
    (user_folder / "renamed.bin").write_bytes(data)
    (user_folder / "other.pt").write_bytes(archive(b"g_ema"))
    file = File(
        "e4e.pt", None, len(data), "torch", (b"latent_avg",), description="e4e", license=LICENSE
    )
    messages = fetch(tmp_path / "to", file, sources=[user_folder])
    assert "recognized by contents" in messages
    assert (tmp_path / "to" / "e4e.pt").read_bytes() == data


def test_an_ambiguous_match_chooses_neither_file(tmp_path, user_folder):
    for name in ("one", "two"):
        (user_folder / name).write_bytes(archive(b"latent_avg" + name.encode()))
    file = File(
        "e4e.pt", None, 50_000, "torch", (b"latent_avg",), description="e4e", license=LICENSE,
        urls=("http://x",),
    )  # fmt: skip
    plan = plan_fetch(Manifest("t", "t", (file,)), tmp_path / "to", [user_folder])
    assert plan.missing == [file]
    assert "several files may be e4e.pt" in plan.warnings[0]


def test_an_uncompressed_variant_of_a_file_is_accepted(tmp_path, user_folder):
    (user_folder / "points.dat").write_bytes(DATA)
    packed = bz2.compress(DATA)
    file = File(
        "p.dat.bz2", sha256(packed), len(packed), "bzip2", description="p", license=LICENSE,
        urls=("http://127.0.0.1:9/",),
        alternatives=(FileVariant("p.dat", sha256(DATA), len(DATA), "any"),),
    )  # fmt: skip
    fetch(tmp_path / "to", file, sources=[user_folder])
    assert (tmp_path / "to" / "p.dat").read_bytes() == DATA
    assert fetch(tmp_path / "to", file) == "", "and is enough the next time"


def test_a_modified_file_is_taken_only_on_request_and_marked(tmp_path, user_folder):
    (user_folder / "a.pkl").write_bytes(OTHER)
    file = make_file("http://127.0.0.1:9/")
    plan = plan_fetch(Manifest("t", "t", (file,)), tmp_path / "to", [user_folder])
    assert plan.missing == [file] and "--allow-modified" in plan.warnings[0]
    messages = fetch(tmp_path / "to", file, sources=[user_folder], allow_modified=True)
    assert "NOT the published file" in messages
    assert lock_of(tmp_path / "to")["a.pkl"]["published"] is False
    assert fetch(tmp_path / "to", file) == "", "and is known the next time"


def test_a_web_page_saved_under_the_name_is_refused(tmp_path, user_folder):
    (user_folder / "a.pkl").write_bytes(b"<html>Virus scan warning</html>")
    with pytest.raises(FetchError, match="not published anywhere"):
        fetch(tmp_path / "to", make_file(known=False), sources=[user_folder])


def test_a_file_on_another_file_system_is_copied(tmp_path):
    own = Path("/dev/shm") / f"styleclip-test-{os.getpid()}.pkl"
    try:
        own.write_bytes(DATA)
    except OSError:
        pytest.skip("no second file system to try with")
    try:
        messages = fetch(tmp_path / "to", make_file(), sources=[own])
        assert (tmp_path / "to" / "a.pkl").read_bytes() == DATA
        if own.stat().st_dev != tmp_path.stat().st_dev:
            assert "(copy;" in messages
    finally:
        own.unlink()
