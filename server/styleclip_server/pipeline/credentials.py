"""Content Credentials: signed provenance of an edited image.

They follow C2PA's specification 2.x (https://spec.c2pa.org, "Actions") and are written by the
Content Authenticity Initiative's library (an extra: pip install 'styleclip-triton[c2pa]'). The
server's operator signs.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

from styleclip_server.pipeline import metadata
from styleclip_server.pipeline.metadata import Provenance


class CredentialsUnusable(Exception):
    """The operator's certificate and key cannot sign; the message says why."""


class Signer:
    """Signs images with the operator's certificate.

    Args:
        certificate: PEM file of the certificate chain.
        key: PEM file of its private key.

    Raises:
        CredentialsUnusable: c2pa-python is missing, or the two files cannot sign.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        try:
            import c2pa
        except ImportError as error:
            raise CredentialsUnusable(
                "c2pa-python is not installed: pip install 'styleclip-triton[c2pa]'"
            ) from error
        try:
            chain, secret = certificate.read_bytes(), key.read_bytes()
            # No thumbnails, which would be a second copy of the face.
            self._context = c2pa.Context.from_dict({"builder": {"thumbnail": {"enabled": False}}})
            info = c2pa.C2paSignerInfo(_algorithm(secret), chain, secret, None)
            self._signer = c2pa.Signer.from_info(info)
            self.sign(_PIXEL, "PNG", metadata.describe_edit("", "", False))
        except (OSError, ValueError, TypeError, c2pa.C2paError) as error:
            raise CredentialsUnusable(
                f"{certificate} and {key} cannot sign images: {error}"
            ) from error

    def sign(self, data: bytes, format: str, provenance: Provenance) -> bytes:
        """Add signed credentials to an encoded image (JPEG, PNG or WEBP)."""
        import c2pa

        action = {
            "action": "c2pa.created",
            "softwareAgent": {"name": provenance.system},
            "digitalSourceType": provenance.source_type,
            "description": provenance.texts or metadata.DESCRIPTION,
        }
        manifest = {
            "claim_generator_info": [{"name": metadata.SOFTWARE}],
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
        }
        signed = io.BytesIO()
        with c2pa.Builder(json.dumps(manifest), self._context) as builder:
            builder.sign(self._signer, f"image/{format.lower()}", io.BytesIO(data), signed)
        return signed.getvalue()


# A PNG of one pixel, signed at start, so that unusable credentials do not fail the first request.
_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154"
    "789c636000000002000148afa4710000000049454e44ae426082"
)


def _algorithm(key: bytes) -> object:
    """Return C2PA's algorithm for a private key (PEM); ValueError for an unsupported key."""
    from c2pa import C2paSigningAlg
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    private = load_pem_private_key(key, password=None)
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return C2paSigningAlg.ED25519
    if isinstance(private, rsa.RSAPrivateKey):
        return C2paSigningAlg.PS256
    if isinstance(private, ec.EllipticCurvePrivateKey):
        curves = {256: C2paSigningAlg.ES256, 384: C2paSigningAlg.ES384, 521: C2paSigningAlg.ES512}
        if private.key_size in curves:
            return curves[private.key_size]
    raise ValueError("the key is not one of P-256, P-384, P-521, RSA, Ed25519")
