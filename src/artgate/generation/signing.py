"""Content Credentials (C2PA): signed copies of accepted artworks, which say that a generator made them.

A signature has a number and a moment of its own, so that no two are the same: the artworks themselves stay as they are,
identified by their bytes and made again bit by bit, and `signed/` holds the copies that are given away.

Key and certificate are files that the environment names: ARTGATE_C2PA_KEY, a private key (PEM), and
ARTGATE_C2PA_CERTIFICATE, its certificate and those above it (PEM). Who trusts the root trusts the picture.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import artgate
from artgate.artworks.collection import Collection
from artgate.artworks.files import sweep_temporaries, write_atomic
from artgate.errors import UserError

SIGNED = "signed"
CERTIFICATE, KEY = "ARTGATE_C2PA_CERTIFICATE", "ARTGATE_C2PA_KEY"
CREATED_BY_A_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}

Signing = Callable[[bytes, str, str], bytes]  # (file, its format, what made it) → signed file


def sign_accepted(root: Path) -> int:
    """Sign what a batch accepted and is not signed yet, into `signed/`; returns how many. Raises UserError."""
    sign = load_signing()
    folder = root / SIGNED
    folder.mkdir(exist_ok=True)
    sweep_temporaries(folder)
    collection = Collection(root / "accepted")
    accepted = {artwork.image_id: artwork for artwork in collection if artwork.provenance.source == "artgate"}
    there = {path.stem: path for path in folder.iterdir()}
    for stray in there.keys() - accepted.keys():
        there[stray].unlink()
    new = [artwork for image_id, artwork in accepted.items() if image_id not in there]
    for artwork in new:
        path = collection.path(artwork)
        signed = sign(path.read_bytes(), artwork.format, artwork.provenance.generator or "unknown")
        write_atomic(folder / path.name, signed)
    return len(new)


def load_signing() -> Signing:
    """The signature that the environment names, tried out. Raises UserError where it cannot be given."""
    try:
        import c2pa
    except ImportError:
        raise UserError("image.sign needs the extra `c2pa`: pip install 'artgate[c2pa]'") from None
    certificate, key = _pem(CERTIFICATE), _pem(KEY)
    try:
        signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(_algorithm(key), certificate, key, None))
        # Without the thumbnail that would make each file larger by a tenth of a megabyte and more
        context = c2pa.Context(c2pa.Settings.from_dict({"builder": {"thumbnail": {"enabled": False}}}))
    except c2pa.C2paError as error:
        raise _refused(error) from None

    def sign(data: bytes, format: str, generator: str) -> bytes:
        signed = io.BytesIO()
        try:
            with c2pa.Builder(_manifest(generator), context) as builder:
                builder.sign(signer, MIME[format], io.BytesIO(data), signed)
        except c2pa.C2paError as error:
            raise _refused(error) from None
        return signed.getvalue()

    sign(_blank(), "PNG", "nothing")
    return sign


def _manifest(generator: str) -> dict[str, Any]:
    created = {
        "action": "c2pa.created",
        "digitalSourceType": CREATED_BY_A_MODEL,
        "softwareAgent": {"name": generator},
    }
    return {
        "claim_generator_info": [{"name": "artgate", "version": artgate.__version__}],
        "assertions": [{"label": "c2pa.actions", "data": {"actions": [created]}}],
    }


def _pem(variable: str) -> bytes:
    name = os.environ.get(variable)
    if not name:
        raise UserError(f"image.sign needs {variable} in the environment: the path of a PEM file")
    try:
        return Path(name).expanduser().read_bytes()
    except OSError as error:
        raise UserError(f"{variable} names {name}, which cannot be read ({error.strerror}): give a PEM file") from None


def _algorithm(key: bytes) -> bytes:
    """C2PA's name of the signature that a private key gives."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError):  # its message may quote what is in the file
        raise UserError(f"{KEY} names a file that is no PEM private key without a password: give one") from None
    if isinstance(private, ec.EllipticCurvePrivateKey):
        return {256: b"es256", 384: b"es384", 521: b"es512"}.get(private.key_size, b"es256")
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return b"ed25519"
    if isinstance(private, rsa.RSAPrivateKey):
        return b"ps256"
    raise UserError(f"{KEY} names a key of a kind that C2PA does not know: give an EC, Ed25519 or RSA key")


def _refused(error: Exception) -> UserError:
    return UserError(
        f"the certificate and key of {CERTIFICATE} and {KEY} give no signature ({error}): they have to belong "
        "together, and the certificate has to allow signing and be issued by another one, which follows in the file"
    )


def _blank() -> bytes:
    from PIL import Image

    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    return data.getvalue()
