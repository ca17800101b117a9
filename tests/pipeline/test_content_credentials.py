"""Edited images are signed if the operator has a certificate (C2PA)."""

import io
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

from paths import AVATAR
from servers import running_server
from styleclip_client import Client
from styleclip_server.pipeline.composition import compose
from styleclip_server.pipeline.credentials import CredentialsUnusable, Signer
from styleclip_server.serving import signing
from styleclip_server.serving.options import Options

c2pa = pytest.importorskip("c2pa", reason="c2pa-python is missing: make test")
FACE = np.full((64, 64, 3), 90, np.uint8)
QUAD = np.array([(0, 0), (0, 63), (63, 63), (63, 0)])
KEYS = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}


def certificate(subject, key, issuer, issuer_key):
    authority, now = subject == issuer, datetime.now(timezone.utc)
    usage = (not authority, *[False] * 4, authority, authority, False, False)
    named = [
        x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests"),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )
        for name in (subject, issuer)
    ]
    builder = (
        x509.CertificateBuilder(*reversed(named))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.BasicConstraints(authority, None), True)
        .add_extension(x509.KeyUsage(*usage), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False
        )
    )
    if not authority:
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purposes, False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def files(tmp_path):
    """Create a signer's certificate chain and key as two PEM files."""

    def create(kind="P-256"):
        authority, key = KEYS["P-256"](), KEYS[kind]()
        chain, secret = tmp_path / "chain.pem", tmp_path / "key.pem"
        chain.write_bytes(
            certificate("signer", key, "authority", authority)
            + certificate("authority", authority, "authority", authority)
        )
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return chain, secret

    return create


def read(image, format):
    """The validation state and the only action of a signed image."""
    reader = c2pa.Reader(f"image/{format.lower()}", io.BytesIO(image))
    manifest = reader.get_active_manifest()
    actions = manifest["assertions"][0]["data"]["actions"]
    assert len(actions) == 1 and "thumbnail" not in manifest
    return reader.get_validation_state(), actions[0]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_signed_image_names_its_edits_and_reveals_changes(files, format):
    signer = Signer(*files())
    labels = {"domain": "avatars", "texts": "a face → a sad face (α 5, β 0.15)", "signer": signer}
    image = compose(FACE, format=format, **labels)
    state, action = read(image, format)
    assert state == "Valid"
    assert action["description"] == "a face → a sad face (α 5, β 0.15)"
    assert action["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert np.asarray(Image.open(io.BytesIO(image))).shape == FACE.shape
    pasted = compose(FACE, Image.new("RGB", (64, 64)), QUAD,
                     True, format, **labels)  # fmt: skip
    assert read(pasted, format)[1]["digitalSourceType"].endswith(
        "/compositeWithTrainedAlgorithmicMedia"
    )
    changed = bytearray(image)
    changed[-3] ^= 1
    if format == "JPEG":
        assert read(bytes(changed), format)[0] == "Invalid"
    assert b"c2pa" not in compose(FACE, format=format, marked=False, **labels)


@pytest.mark.parametrize("kind", KEYS)
def test_every_common_kind_of_key_signs(files, kind):
    image = compose(FACE, signer=Signer(*files(kind)))
    assert read(image, "JPEG")[0] == "Valid"


def test_a_certificate_that_cannot_sign_is_reported(files, monkeypatch, tmp_path):
    chain, key = files()
    with pytest.raises(CredentialsUnusable, match=r"chain\.pem"):
        Signer(tmp_path / "chain.pem", chain)  # no key
    with pytest.raises(CredentialsUnusable, match=r"missing\.pem"):
        Signer(tmp_path / "missing.pem", key)
    monkeypatch.setenv(signing.CERTIFICATE_VARIABLE, str(chain))
    with pytest.raises(CredentialsUnusable, match="go together"):
        signing.load_signer()


def test_the_server_signs_with_the_certificate_in_its_environment(files, monkeypatch, tmp_path):
    chain, key = files()
    monkeypatch.setenv(signing.CERTIFICATE_VARIABLE, str(chain))
    monkeypatch.setenv(signing.KEY_VARIABLE, str(key))
    options = Options(domain="avatars", log=tmp_path / "log")
    with running_server(options) as server, Client(server.grpc_url) as client:
        edited = client.edit_photo(AVATAR, client.domain().edit("a sad face"))
    state, action = read(edited.picture, "JPEG")
    assert state == "Valid" and "a sad face" in action["description"]
