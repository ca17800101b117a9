"""Fetching small files, for the tests of `styleclip-export fetch`."""

import io
import json
import random
import threading
import zipfile

import urllib3

from download_server import DATA, SIZE, sha256
from polling import SECONDS
from styleclip_export.fetch.download import Downloader
from styleclip_export.fetch.fetcher import fetch_files
from styleclip_export.fetch.lock_file import LOCK
from styleclip_export.fetch.manifest import File, License, Manifest
from styleclip_export.fetch.plan import plan_fetch

LICENSE = License("for tests", "https://example.org/license", True)


class Recorder:
    """A reporter that keeps the messages."""

    def __init__(self):
        self.messages = []

    def progress(self, name, size, total):
        assert size >= 0 and (total is None or size <= total)

    def message(self, line):
        self.messages.append(line)


def make_file(*urls, name="a.pkl", known=True, size=SIZE, kind="pickle", **more):
    """Return a manifest's file with the content `DATA`."""
    return File(
        name,
        sha256(DATA) if known else None,
        size,
        kind,
        description="a test",
        license=LICENSE,
        urls=urls,
        **more,
    )


def fetch(folder, *files, **options):
    """Plan and fetch with few retries; return the messages."""
    recorder = Recorder()
    retries = urllib3.Retry(
        total=3, backoff_factor=0, status_forcelist=(500,), raise_on_status=False
    )
    downloader = Downloader(threading.Event(), retries, urllib3.Timeout(SECONDS))
    plan = plan_fetch(Manifest("test", "A test", files), folder, **options)
    fetch_files(plan, recorder, downloader=downloader)
    return " | ".join(recorder.messages)


def lock_of(folder):
    """Return the content of the folder's lock file."""
    return json.loads((folder / LOCK).read_text())


def archive(words):
    """Return a zip archive that is recognized as one of torch.save."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as writing:
        writing.writestr("archive/data.pkl", b"\x80\x02" + words)
        writing.writestr("archive/data/0", random.Random(3).randbytes(50_000))
    return stream.getvalue()
