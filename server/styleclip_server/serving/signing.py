"""The operator's signer of Content Credentials, from two environment variables."""

from __future__ import annotations

import os
from pathlib import Path

from styleclip_server.pipeline.credentials import CredentialsUnusable, Signer

CERTIFICATE_VARIABLE = "STYLECLIP_C2PA_CERTIFICATE"  # PEM file: the chain from the signer
KEY_VARIABLE = "STYLECLIP_C2PA_KEY"  # PEM file, unencrypted


def load_signer() -> Signer | None:
    """Load the operator's signer; None if the environment names no certificate.

    Raises:
        CredentialsUnusable: only one file is named, or they cannot sign.
    """
    certificate, key = os.environ.get(CERTIFICATE_VARIABLE), os.environ.get(KEY_VARIABLE)
    if not certificate and not key:
        return None
    if not certificate or not key:
        raise CredentialsUnusable(f"{CERTIFICATE_VARIABLE} and {KEY_VARIABLE} go together")
    try:
        return Signer(Path(certificate), Path(key))
    except CredentialsUnusable as error:
        raise CredentialsUnusable(f"{CERTIFICATE_VARIABLE}, {KEY_VARIABLE}: {error}") from error
