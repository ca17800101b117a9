"""`styleclip bench` and `styleclip completion`, on the real server."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from paths import AVATAR
from polling import SECONDS, wait_until
from styleclip_client.commands.options import DONE


def test_bench_measures_each_call(styleclip):
    options = ["--seconds", 0.5, "--concurrency", 1, "--concurrency", 2]
    code, stdout, _ = styleclip("bench", AVATAR, *options, "--json")
    measured = json.loads(stdout)["measured"]
    assert code == DONE
    assert [(m["call"], m["concurrency"]) for m in measured] == [
        (call, count) for call in ("invert", "edit", "edit_photo") for count in (1, 2)
    ]
    for row in measured:
        assert row["answered"] > 0 and row["failed"] == 0 and row["per_second"] > 0
        assert 0 < row["p50"] <= row["p95"] <= row["p99"] <= row["longest"]
    code, stdout, _ = styleclip("bench", AVATAR, "--call", "edit", "--seconds", 0.2)
    assert code == DONE and "edit" in stdout and "p95" in stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(styleclip, shell):
    code, stdout, _ = styleclip("completion", shell)
    assert code == DONE and "_STYLECLIP_COMPLETE" in stdout


def test_bash_completes_commands_options_and_presets(server):
    script = f"""
        PATH={Path(sys.executable).parent}:$PATH
        eval "$(styleclip completion bash)"
        complete_line() {{
            COMPREPLY=() COMP_WORDS=(styleclip "$@") COMP_CWORD=$#
            _styleclip_completion styleclip
            printf '%s\\n' "${{COMPREPLY[@]}}"
        }}
        complete_line swe
        complete_line edit --over
        complete_line edit --server {server.grpc_url} --preset sung
        complete_line edit --server localhost:1 --preset sung
    """

    def complete():
        done = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, timeout=SECONDS
        )
        assert done.stderr == ""
        return done.stdout.split()

    # A completion asks the server for one second; a busy machine may take longer.
    wait_until(lambda: complete() == ["sweep", "--overwrite", "Sunglasses"])
