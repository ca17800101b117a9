"""`styleclip-export fetch` as a command: licenses, interrupts, manifests."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from download_server import DATA, sha256
from polling import SECONDS, wait_until
from styleclip_export import cli
from styleclip_export.domains import known_domains
from styleclip_export.fetch.manifest import load_manifest

# A shell that runs the tests in the background has them ignore Ctrl-C; processes inherit that.
RUN = """
import signal
from styleclip_export.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


@pytest.fixture
def manifest_file(file_server, tmp_path):
    """Write a manifest of one file that the server sends with the given behavior."""

    def write(behavior, known=True):
        file = {
            "name": "a.pkl", "what": "a test", "license": "l", "kind": "pickle",
            "sha256": sha256(DATA) if known else None, "size": len(DATA),
            "urls": [f"{file_server.url}/{behavior}"],
        }  # fmt: skip
        terms = {"title": "for tests", "url": "https://example.org", "non_commercial": True}
        path = tmp_path / "test.json"
        path.write_text(
            json.dumps({"domain": "t", "title": "T", "licenses": {"l": terms}, "files": [file]})
        )
        return str(path)

    return write


def test_without_a_terminal_licenses_must_be_accepted_beforehand(
    file_server, tmp_path, manifest_file, capsys
):
    to = tmp_path / "to"
    arguments = ["fetch", manifest_file("good"), "--to", str(to)]
    assert cli.run(arguments) == 1
    output = capsys.readouterr()
    assert "NON-COMMERCIAL: for tests" in output.out and "https://example.org" in output.out
    assert "FetchError: the licenses above must be accepted" in output.err
    assert output.err.count("\n") == 1 and not to.exists() and file_server.requests == []
    assert cli.run([*arguments, "--accept-licenses"]) == 0
    assert (to / "a.pkl").read_bytes() == DATA
    assert cli.run(arguments) == 0, "nothing to fetch, so no license to accept"
    assert "already there, checked" in capsys.readouterr().out


@pytest.mark.parametrize(("word", "status"), [(b"n\n", 1), (b"y\n", 0)])
def test_on_a_terminal_the_user_must_accept(file_server, tmp_path, manifest_file, word, status):
    master, slave = pty.openpty()
    to = tmp_path / "to"
    with subprocess.Popen(
        [sys.executable, "-c", RUN, "fetch", manifest_file("good"), "--to", str(to)],
        stdin=slave, stdout=slave, stderr=slave,
    ) as process:  # fmt: skip
        os.close(slave)
        os.write(master, word)
        output = b""
        try:
            while block := os.read(master, 4096):
                output += block
        except OSError:  # the terminal's other end is closed
            pass
    os.close(master)
    assert process.returncode == status, output
    assert b"Do you accept these licenses?" in output
    assert (to / "a.pkl").exists() == (status == 0)
    assert (b"were not accepted" in output) == (status == 1)


def test_without_a_terminal_lines_say_how_long_the_rest_takes(
    manifest_file, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("styleclip_export.commands.progress.LINE_SECONDS", 0)
    where = ["--to", str(tmp_path / "to"), "--accept-licenses"]
    assert cli.run(["fetch", manifest_file("good"), *where]) == 0
    output = capsys.readouterr().out
    assert "to download: 1 file(s), about 1 MB" in output
    assert re.search(r"downloads: 1 of about 1 MB, [\d.]+ MB/s, about 0 s left", output)


def test_an_interrupt_keeps_the_part_and_the_next_run_requests_only_the_rest(
    file_server, tmp_path, manifest_file
):
    to = tmp_path / "to"
    arguments = ["fetch", manifest_file("hang", known=False), "--to", str(to), "--accept-licenses"]
    with subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        part = to / "a.pkl.part"
        wait_until(lambda: part.exists() and part.stat().st_size == 300_000)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=SECONDS)[1].decode()
    assert process.returncode == 130
    assert "Traceback" not in errors and "interrupted" in errors
    assert part.stat().st_size == 300_000
    file_server.sent = 0
    file_server.release.set()
    assert cli.run(arguments) == 0
    assert (to / "a.pkl").read_bytes() == DATA
    assert file_server.sent == len(DATA) - 300_000
    assert file_server.requests[1] == ("hang", "bytes=300000-", f'"{sha256(DATA)}"')


@pytest.mark.parametrize(
    "change",
    [
        {"files": [{"name": "../up"}]},
        {"licenses": 3},
        {"domain": "a/b"},
        {"files": None},
    ],
)
def test_a_bad_manifest_is_refused_in_one_line(manifest_file, capsys, change):
    path = Path(manifest_file("good"))
    raw = json.loads(path.read_text())
    if isinstance(change.get("files"), list):
        change = {"files": [raw["files"][0] | change["files"][0]]}
    path.write_text(json.dumps(raw | change))
    assert cli.run(["fetch", str(path)]) == 1
    assert "is not a manifest" in capsys.readouterr().err


def test_errors_about_unknown_domains_and_files_list_the_known_ones(capsys, tmp_path):
    assert cli.run(["fetch", "dogs"]) == 1
    assert "known domains: cars, church, ffhq, horse" in capsys.readouterr().err
    assert cli.run(["fetch", "ffhq", "--only", "x.pt", "--to", str(tmp_path)]) == 1
    assert "its files are e4e_ffhq_encode.pt" in capsys.readouterr().err


@pytest.mark.parametrize("domain", known_domains())
def test_a_shipped_manifest_names_the_terms_and_addresses_of_each_needed_file(domain):
    for file in load_manifest(domain).files:
        assert file.license.title and file.license.url.startswith("https://")
        assert file.optional or file.urls
        if file.sha256 is None:
            assert all(url.startswith("https://") for url in file.urls)


def test_the_older_spelling_of_license_is_accepted_in_a_manifest_and_as_an_option(
    manifest_file, tmp_path
):
    path = Path(manifest_file("good"))
    path.write_text(path.read_text().replace("license", "licence"))
    assert cli.run(["fetch", str(path), "--to", str(tmp_path / "to"), "--accept-licences"]) == 0
