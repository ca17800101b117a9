"""Errors keep their names from the server's steps to the caller of the client."""

import socket
import subprocess
import sys

import numpy as np
import pytest

from styleclip_client import Client, Edit
from styleclip_client.failures import CallFailed
from styleclip_contract import errors

EDIT = Edit("a face", "a sad face", 1.0, 0.1)


def all_errors(cls=errors.StyleclipError):
    return [cls, *(error for sub in cls.__subclasses__() for error in all_errors(sub))]


def from_triton(message, code):
    return CallFailed(code, message).to_error("localhost:8001", 2.0)


@pytest.mark.parametrize("cls", all_errors())
def test_every_named_error_survives_the_wire(cls):
    back = from_triton(cls("what was wrong: what to do").to_wire(), "INVALID_ARGUMENT")
    assert type(back) is cls
    assert str(back) == "what was wrong: what to do"


def test_an_error_name_is_found_after_tritons_prefix():
    line = "in ensemble 'edit_photo', Failed to run: NoFaceFound: there is no face in the photo"
    back = from_triton(line, "INVALID_ARGUMENT")
    assert type(back) is errors.NoFaceFound
    assert str(back) == "there is no face in the photo"


OTHER_ROWS = (
    "[request id: a] unexpected shape for input 'W_PLUS' for model 'edit'. "
    "Expected [-1,14,512], got [1,18,512]."
)
UNLOADED = "Request for unknown model: 'edit' has no available versions"
STEP_DIED = "Stub process 'align_0_0' is not healthy."


@pytest.mark.parametrize(
    "code, message, cls, says",
    [
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", errors.DeadlineExceeded, "within 2 s"),
        ("UNAVAILABLE", "failed to connect", errors.ServerUnavailable, "make serve"),
        ("UNAVAILABLE", "Exceeds maximum queue size", errors.ServerBusy, "try again"),
        ("UNAVAILABLE", "Request timeout expired", errors.ServerBusy, "try again"),
        ("INTERNAL", STEP_DIED, errors.ServerUnavailable, "restarted"),
        ("NOT_FOUND", "unknown model: 'edit'", errors.ServerUnavailable, "styleclip status"),
        ("INVALID_ARGUMENT", UNLOADED, errors.ServerUnavailable, "starting or stopping"),
        ("INVALID_ARGUMENT", "unexpected shape", errors.InvalidInput, "unexpected shape"),
        ("INVALID_ARGUMENT", OTHER_ROWS, errors.InvalidLatent, "18 rows"),
        ("RESOURCE_EXHAUSTED", "slow down", errors.ServerBusy, "try again"),
        ("RESOURCE_EXHAUSTED", "message larger than max", errors.ServerError, "larger than max"),
        ("UNAUTHENTICATED", "", errors.AccessRefused, "token"),
        ("PERMISSION_DENIED", "not yours", errors.AccessRefused, "not yours"),
        ("INTERNAL", "it broke", errors.ServerError, "it broke"),
        ("UNKNOWN", "", errors.ServerError, "UNKNOWN"),
        ("CANCELLED", "", errors.ServerUnavailable, "stopping"),
    ],
)
def test_an_unnamed_failure_maps_to_the_closest_error_class(code, message, cls, says):
    error = from_triton(message, code)
    assert type(error) is cls
    assert says in str(error)


@pytest.mark.parametrize(
    "code, message, transient",
    [
        ("UNAVAILABLE", "failed to connect", True),
        ("UNAVAILABLE", "Exceeds maximum queue size", True),
        ("RESOURCE_EXHAUSTED", "slow down", True),
        ("INTERNAL", STEP_DIED, True),
        ("INVALID_ARGUMENT", UNLOADED, True),
        ("CANCELLED", "CANCELLED", True),
        ("RESOURCE_EXHAUSTED", "message larger than max", False),
        ("UNAVAILABLE", "LandmarksMissing: there is no model", False),
        ("INVALID_ARGUMENT", "NoFaceFound: there is no face", False),
        ("NOT_FOUND", "unknown model: 'edit'", False),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", False),
        ("INTERNAL", "it broke", False),
    ],
)
def test_only_transient_failures_are_retried(code, message, transient):
    assert CallFailed(code, message).is_transient is transient


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_no_server_at_the_address_is_server_unavailable(free_port, scheme):
    with Client(f"{scheme}://localhost:{free_port}", timeout=5, retries=0) as client:
        for call in (client.status, client.domain, lambda: client.invert(b"photo")):
            with pytest.raises(errors.ServerUnavailable, match=f"localhost:{free_port}.*make"):
                call()


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_server_that_does_not_answer_exceeds_the_deadline(scheme):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        with (
            Client(address, timeout=0.3) as client,
            pytest.raises(errors.DeadlineExceeded, match=r"within 0\.3 s"),
        ):
            client.invert(b"photo")


@pytest.mark.parametrize(
    "given, used",
    [
        ("localhost", "localhost:8001"),
        ("gpu.example:9001", "gpu.example:9001"),
        ("grpc://10.0.0.1:8001", "10.0.0.1:8001"),
        ("[::1]", "[::1]:8001"),
        ("[::1]:9001", "[::1]:9001"),
        ("http://localhost", "http://localhost:8000"),
        ("https://faces.example/triton/", "https://faces.example:443/triton"),
        ("grpcs://faces.example", "grpcs://faces.example:443"),
    ],
)
def test_an_address_may_omit_port_and_scheme(given, used):
    with Client(given) as client:
        assert client.url == used


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://localhost:8000",
        "host:port",
        "host:0",
        "host:99999",
        ":8001",
        "host/x:1",
        "http://me:secret@host",
        "http://host?x=1",
    ],
)
def test_an_invalid_address_is_refused(url):
    with pytest.raises(ValueError, match="is not"):
        Client(url)


def test_certificates_without_tls_are_refused():
    with pytest.raises(ValueError, match="no TLS"):
        Client("localhost:8001", ca="authority.pem")
    with pytest.raises(ValueError, match="together"):
        Client("grpcs://localhost:8001", certificate="me.pem")


@pytest.mark.parametrize(
    "error, call",
    [
        (errors.EditsMismatch, lambda client: client.edit_photo(b"photo", [])),
        (errors.EditsMismatch, lambda client: client.edit_photo(b"photo", [EDIT] * 100)),
        (errors.UnknownFormat, lambda client: client.edit_photo(b"photo", EDIT, format="GIF")),
        (errors.UnknownFormat, lambda client: client.edit_photo(b"photo", EDIT, quality=0)),
        (errors.FaceIndexOutOfRange, lambda client: client.invert(b"photo", face=2**40)),
        (errors.NotAnImage, lambda client: client.invert(b"")),
        (errors.InvalidLatent, lambda client: client.edit(np.zeros((14, 3)), EDIT)),
        (errors.InvalidLatent, lambda client: client.edit(np.full((14, 512), np.nan), EDIT)),
    ],
)
def test_invalid_arguments_are_refused_without_a_request(free_port, error, call):
    with Client(f"localhost:{free_port}") as client, pytest.raises(error):
        call(client)


@pytest.mark.parametrize(
    "code, unused",
    [
        ("import styleclip_contract.wire, styleclip_client.errors", ("grpc", "httpx")),
        ("from styleclip_client import Client; Client('localhost')", ("httpx", "torch", "dlib")),
        ("from styleclip_client import Client; Client('http://localhost')", ("grpc", "torch")),
    ],
)
def test_only_the_needed_modules_are_loaded(code, unused):
    code += f"; import sys; sys.exit(any(name in sys.modules for name in {unused!r}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
