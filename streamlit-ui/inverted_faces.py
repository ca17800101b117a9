"""The fidelity of edits of an inverted face: "features" if the face has its crop, else "latent"."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from styleclip_client import Inverted
from styleclip_contract import limits


def fidelity_of(face: Inverted) -> str:
    """Return the fidelity with which the page edits a face."""
    return limits.FEATURES if face.crop else limits.LATENT


def with_fidelity(face: Inverted, fidelity: str) -> Inverted:
    """Return the face as the page edits it with a fidelity."""
    return face if fidelity == limits.FEATURES else replace(face, crop=None)


def face_digest(face: Inverted) -> bytes:
    """Return a short digest of all that edits of a face depend on."""
    return hashlib.blake2b(face.w_plus.tobytes() + (face.crop or b""), digest_size=16).digest()
