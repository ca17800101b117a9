"""The tokens of the clients, and whether they need one."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress

from styleclip_server.serving.errors import ServerStartFailed
from styleclip_server.serving.options import Options

_DEFAULT_CLIENT = "me"
# A token and, after it, the client's name; also as the gateway's file has it: "Bearer TOKEN" NAME;
_LINE = re.compile(r'(?:"Bearer )?([A-Za-z0-9._~+/=-]+)"?(?:\s+([A-Za-z0-9_.-]+))?;?')
_MIN_CHARACTERS = 16


def read_tokens(options: Options) -> dict[str, str]:
    """Return the client's name by token; empty if clients need none.

    Raises:
        ServerStartFailed: a token is missing, too short or not readable.
    """
    tokens = {options.token: _DEFAULT_CLIENT} if options.token else {}
    if options.token_file:
        tokens |= _read_file(options)
    for token in tokens:
        if len(token) < _MIN_CHARACTERS or not _LINE.fullmatch(token):
            raise ServerStartFailed(
                f"a token has {len(token)} characters; at least {_MIN_CHARACTERS} letters, "
                "digits and -._~+/= are expected, as `openssl rand -hex 24` prints them"
            )
    if not tokens and not options.no_token and not is_loopback(options.host):
        raise ServerStartFailed(
            f"--host is {options.host}, so others can reach the server: give a token with "
            "--token-file or STYLECLIP_TOKEN, or --no-token if something else keeps others out"
        )
    return tokens


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _read_file(options: Options) -> dict[str, str]:
    """Read a file with one token per line."""
    assert options.token_file
    try:
        lines = options.token_file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ServerStartFailed(f"--token-file cannot be read: {error}") from error
    tokens = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if not match:
            raise ServerStartFailed(
                f"{options.token_file}, line {number}: a token is expected, and maybe a name"
            )
        tokens[match[1]] = match[2] or _DEFAULT_CLIENT
    if not tokens:
        raise ServerStartFailed(f"{options.token_file} has no token: write one per line")
    return tokens
