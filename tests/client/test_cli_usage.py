"""The command without a server: help, one line for each mistake, exit codes."""

import pytest
from PIL import Image

from styleclip_client.cli import run
from styleclip_client.commands.options import BAD_INPUT, DONE, SERVER_FAILED, WRONG_USAGE
from styleclip_contract import limits


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (16, 16), "white").save(path)
    return path


@pytest.fixture
def fails(capsys):
    """Runs the command, which must fail with `code`, and returns its one line on standard error."""

    def fails_with(code, *arguments):
        assert run([str(argument) for argument in arguments]) == code
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.endswith("\n") and output.err.count("\n") == 1
        assert output.err.startswith("styleclip: ")
        return output.err

    return fails_with


@pytest.mark.parametrize("command", [[], ["edit"], ["invert"], ["status"]])
def test_help_lists_the_exit_statuses(capsys, command):
    assert run([*command, "--help"]) == DONE
    assert "Exit status: 0 done, 1 the server" in capsys.readouterr().out


def test_version_prints_the_version(capsys):
    assert run(["--version"]) == DONE
    assert capsys.readouterr().out.startswith("styleclip, version ")


def test_a_missing_command_photo_or_output_is_wrong_usage(fails, photo):
    assert "--help" in fails(WRONG_USAGE)
    assert "edit --help" in fails(WRONG_USAGE, "edit")
    assert "--out" in fails(WRONG_USAGE, "edit", photo, "--target", "a sad face")


def test_a_photo_that_does_not_exist_is_wrong_usage(fails, tmp_path):
    line = fails(WRONG_USAGE, "edit", tmp_path / "none.jpg", "-o", tmp_path / "out.jpg")
    assert "does not exist" in line


def test_an_edit_without_texts_is_wrong_usage(fails, photo, tmp_path):
    assert "--target" in fails(WRONG_USAGE, "edit", photo, "-o", tmp_path / "out.jpg")


def test_an_output_of_unknown_format_is_wrong_usage(fails, photo, tmp_path):
    line = fails(WRONG_USAGE, "edit", photo, "--target", "sad", "-o", tmp_path / "out.gif")
    assert ".jpg, .jpeg, .png, .webp" in line
    assert ".npz" in fails(WRONG_USAGE, "invert", photo, "-o", tmp_path / "out.json")


def test_an_output_that_exists_is_kept_without_overwrite(fails, photo):
    before = photo.read_bytes()
    assert "--overwrite" in fails(WRONG_USAGE, "edit", photo, "--target", "sad", "-o", photo)
    assert photo.read_bytes() == before


def test_an_output_in_a_missing_folder_is_wrong_usage(fails, photo, tmp_path):
    out = tmp_path / "none" / "out.jpg"
    assert "no folder" in fails(WRONG_USAGE, "edit", photo, "--target", "sad", "-o", out)


def test_strengths_that_match_no_edit_are_wrong_usage(fails, photo, tmp_path):
    arguments = ["edit", photo, "--target", "a", "--target", "b", "-o", tmp_path / "out.jpg"]
    for option in ("--strength", "--threshold"):
        line = fails(WRONG_USAGE, *arguments, *[option, "0.1"] * 3)
        assert f"{option} is given 3 times" in line


def test_a_latent_takes_no_photo_options(fails, tmp_path):
    latent = tmp_path / "w.npz"
    latent.touch()
    line = fails(
        WRONG_USAGE, "edit", latent, "--target", "sad", "--paste", "-o", tmp_path / "out.jpg"
    )
    assert "need the photo" in line


def test_an_invalid_server_address_is_wrong_usage(fails):
    assert "is not a server address" in fails(WRONG_USAGE, "status", "--server", "ftp://localhost")


def test_a_missing_server_is_reported_in_one_line(fails, photo, tmp_path, free_port):
    server = f"localhost:{free_port}"
    out = tmp_path / "out.jpg"
    for arguments in (
        ["status"],
        ["status", "--json"],
        ["invert", photo, "-o", tmp_path / "w.npz"],
        ["edit", photo, "--target", "a sad face", "-o", out],
    ):
        line = fails(SERVER_FAILED, *arguments, "--server", server)
        assert "ServerUnavailable" in line and "make serve" in line
    assert not out.exists()


def test_the_server_address_can_come_from_the_environment(fails, monkeypatch, free_port):
    monkeypatch.setenv("STYLECLIP_SERVER", f"localhost:{free_port}")
    assert f"localhost:{free_port}" in fails(SERVER_FAILED, "status")


def test_a_photo_over_the_limit_is_bad_input(fails, tmp_path, free_port):
    big = tmp_path / "big.jpg"
    with big.open("wb") as file:
        file.truncate(limits.PHOTO_BYTES + 1)
    server = f"localhost:{free_port}"
    line = fails(BAD_INPUT, "invert", big, "-o", tmp_path / "w.npz", "--server", server)
    assert "ImageTooLarge" in line
