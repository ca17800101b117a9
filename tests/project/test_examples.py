"""The examples do what they say, each in a process of its own on the real server."""

import os
import re
import subprocess
import sys

import pytest
from PIL import Image

from paths import ROOT
from polling import SECONDS

EXAMPLES = ROOT / "examples"
# What each example prints, and the images that it writes.
EXPECTED = {
    "sync_grpc.py": (
        r"sunglasses: \d+ channels moved\nboth: 256 x 256 pixels\n",
        ["both.png", "sad-2.jpg", "sad-4.jpg", "sad-6.jpg", "sunglasses.jpg"],
    ),
    "asyncio_grpc.py": (
        r"(\w+( \w+)?: \d+ bytes\n){4}(not|done) within a second",
        ["beard.jpg", "glasses.jpg", "smile.jpg", "sunglasses.jpg"],
    ),
    "over_http.py": (
        r"not an image: .*\nNoChannelLeft: .*\nunavailable: .*\n",
        ["red-hair.webp"],
    ),
    "many_photos.py": (
        r"(people-\d\.jpg: \d+ bytes\n){4}"
        r"many_photos\.py: NotAnImage: .*\nmissing\.jpg: FileNotFoundError: .*\n",
        ["people-1.jpg", "people-2.jpg", "people-3.jpg", "people-4.jpg"],
    ),
    "sweep.py": (r"5 images, alpha -4 to 8\n", ["strip.png", "sweep.gif"]),
    "arrays.py": (
        r"\(256, 256, 3\) uint8; [1-9]\d?% of the pixels changed\nno shared memory: .*\n",
        ["before-and-after.png"],
    ),
    "kserve_http.py": (r"channels moved by the two edits: \d+ and \d+\n",
                       ["sunglasses.jpg", "two-edits.png"]),
}  # fmt: skip


def test_every_example_is_listed_and_tested():
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert scripts == set(EXPECTED)
    listed = re.findall(r"^\| `([\w.]+)` \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert set(listed) == scripts


@pytest.mark.parametrize("name", EXPECTED)
def test_an_example_runs(people_server, tmp_path, name):
    http, grpc = f"http://{people_server.http_url}", people_server.grpc_url
    url = http if "http" in name else grpc
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, tmp_path],
        env=os.environ | {"STYLECLIP_SERVER": url},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, "")
    pattern, images = EXPECTED[name]
    assert re.search(pattern, done.stdout), done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == images
    for image in images:
        Image.open(tmp_path / image).load()
