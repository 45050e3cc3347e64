"""Signed copies of accepted artworks, with a certificate of the test's own."""

import datetime
import io
import json
from pathlib import Path
from typing import Any

import pytest
from batches import build_scorer, configured, ledger
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pictures import picture
from tiny_models import build_tiny

from artgate.artworks.artwork import Provenance
from artgate.artworks.collection import Collection
from artgate.artworks.parameters import GenerationParameters, embed, format_a1111, read_parameters
from artgate.errors import UserError
from artgate.generation.production import generate
from artgate.generation.signing import CERTIFICATE, CREATED_BY_A_MODEL, KEY, load_signing, sign_accepted

c2pa = pytest.importorskip("c2pa")

PEM = serialization.Encoding.PEM
TEXT = format_a1111(GenerationParameters(prompt="a (frog:1.3)", steps=2, sampler="lcm", guidance=1.0, seed=7))


def name(common: str) -> x509.Name:
    pairs = ((NameOID.COMMON_NAME, common), (NameOID.ORGANIZATION_NAME, "Tests"))
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in pairs])


def certificate(subject: str, issuer: str, key: Any, signed_by: Any, authority: bool) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=authority, crl_sign=authority, **usage), critical=True
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signed_by.public_key()), critical=False)
    )
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(signed_by, hashes.SHA256()).public_bytes(PEM)


@pytest.fixture
def signer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate and key in files that the environment names."""
    root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    chain = certificate("signer", "root", own, root, False) + certificate("root", "root", root, root, True)
    (tmp_path / "chain.pem").write_bytes(chain)
    write_key(tmp_path / "key.pem", own)
    monkeypatch.setenv(CERTIFICATE, str(tmp_path / "chain.pem"))
    monkeypatch.setenv(KEY, str(tmp_path / "key.pem"))


def write_key(path: Path, key: Any) -> None:
    path.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


def read(data: bytes, mime: str) -> dict[str, Any]:
    return json.loads(c2pa.Reader(mime, io.BytesIO(data)).json())


def codes(told: dict[str, Any]) -> set[str]:
    return {status["code"] for status in told.get("validation_status", [])}


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_signed_copy_says_who_made_it_and_that_nothing_was_changed(signer: None, format: str):
    data = embed(picture(1), TEXT, format)
    signed = load_signing()(data, format, "sd15_lcm")
    told = read(signed, f"image/{format.lower()}")
    # nobody else trusts a root of our own
    assert (told["validation_state"], codes(told)) == ("Valid", {"signingCredential.untrusted"})
    manifest = told["manifests"][told["active_manifest"]]
    (action,) = manifest["assertions"][0]["data"]["actions"]
    assert (action["action"], action["digitalSourceType"]) == ("c2pa.created", CREATED_BY_A_MODEL)
    assert action["softwareAgent"]["name"] == "sd15_lcm"
    assert manifest["claim_generator_info"][0]["name"] == "artgate"
    assert manifest["signature_info"]["common_name"] == "signer"
    assert read_parameters(signed) == read_parameters(data)
    assert read_parameters(signed).prompt == "a (frog:1.3)"
    assert len(signed) - len(data) < 20_000
    changed = bytearray(signed)
    changed[-60] ^= 1
    try:
        state = read(bytes(changed), f"image/{format.lower()}")["validation_state"]
    except c2pa.C2paError:  # where the changed byte is one of the manifest's own
        state = "Invalid"
    assert state == "Invalid"


def test_what_is_accepted_is_signed_once_and_stays_as_it_is(signer: None, tmp_path: Path):
    collection = Collection(tmp_path / "batch" / "accepted", create=True)
    first, second = (
        collection.add(embed(picture(n), TEXT), Provenance(source="artgate", generator="sd15")) for n in (1, 2)
    )
    by_hand = collection.add(embed(picture(3), TEXT), Provenance(source="web"))
    before = collection.path(first).read_bytes()
    assert sign_accepted(tmp_path / "batch") == 2
    folder = tmp_path / "batch" / "signed"
    signed = folder / collection.path(first).name
    kept = signed.read_bytes()
    assert not (folder / collection.path(by_hand).name).exists()
    collection.purge([second.image_id])
    assert sign_accepted(tmp_path / "batch") == 0
    assert [path.name for path in folder.iterdir()] == [signed.name] and signed.read_bytes() == kept
    assert collection.path(first).read_bytes() == before


@pytest.mark.slow
def test_a_run_signs_what_it_accepted_and_its_ledger_is_what_it_was(signer: None, tmp_path: Path):
    model, scorer = build_tiny("sd1", tmp_path / "sd1"), build_scorer(tmp_path / "scorer")
    options = ["target=1", "gate.threshold=0", "image.format=webp"]
    generate(configured(model, scorer, tmp_path / "batch", *options))
    before = ledger(tmp_path / "batch")
    generate(configured(model, scorer, tmp_path / "batch", *options, "image.sign=true"))  # nothing else is left to do
    (signed,) = (tmp_path / "batch" / "signed").iterdir()
    assert signed.stem == before[0]["image_id"] and ledger(tmp_path / "batch") == before
    assert read(signed.read_bytes(), "image/webp")["validation_state"] == "Valid"
    assert read_parameters(signed.read_bytes()).seed == before[0]["seed"]


def test_what_gives_no_signature_is_said_before_anything_is_made(signer: None, tmp_path: Path, monkeypatch):
    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message) as told:
            load_signing()
        assert "PRIVATE" not in str(told.value) and "MIG" not in str(told.value)

    write_key(tmp_path / "other.pem", ec.generate_private_key(ec.SECP256R1()))
    monkeypatch.setenv(KEY, str(tmp_path / "other.pem"))
    refused("give no signature .* have to belong together")
    write_key(tmp_path / "other.pem", ed25519.Ed25519PrivateKey.generate())
    refused("give no signature")
    (tmp_path / "other.pem").write_text("-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\n")
    refused(f"{KEY} names a file that is no PEM private key")
    monkeypatch.setenv(KEY, str(tmp_path / "missing.pem"))
    refused(f"{KEY} names .*missing.pem, which cannot be read")
    monkeypatch.delenv(KEY)
    refused(f"image.sign needs {KEY} in the environment")
