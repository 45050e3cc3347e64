import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hostile_server import answer, hostile, redirect
from network_probe import probe

from artcrawl.network.addresses import Allowed, allowed, is_public, literal
from artcrawl.network.guard import refusal
from artgate.errors import UserError


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_of_the_public_internet(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.255.0.9", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"]
    + ["0.1.2.3", "192.0.0.8", "192.0.2.1", "198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"]
    + ["::1", "::", "fe80::1", "fd00::1", "ff02::1", "ff0e::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"]
    + ["64:ff9b::7f00:1", "64:ff9b:1::1", "3fff::1", "fec0::1", "2002:7f00:1::", "2002:a00:1::1"],
)
def test_addresses_of_no_public_host(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("127.1.", "127.0.0.1"),
        ("[::1]", "::1"),
        ("::FFFF:10.0.0.1", "::ffff:a00:1"),
        ("example.org", None),
        ("1.2.3.4.5", None),
        ("256.256.256.256", None),
        ("127.0.0.1 x", None),
        ("", None),
    ],
)
def test_literals_in_all_their_forms(host: str, address: str | None) -> None:
    assert literal(host) == (None if address is None else ipaddress.ip_address(address))


def test_what_the_operator_allows() -> None:
    rules = allowed(["127.0.0.1", " 10.0.0.0/8", "Gallery.LAN.", "fd00::/8"])
    private = ["127.0.0.1", "127.0.0.2", "10.9.8.7", "::ffff:10.0.0.1", "fd00::5", "fe80::1", "8.8.8.8"]
    allowed_ones = [rules.address(ipaddress.ip_address(address)) for address in private]
    assert allowed_ones == [True, False, True, True, True, False, True]
    assert rules.host("gallery.lan")
    assert not rules.host("x.gallery.lan")


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "http://127.0.0.1/", "a b", "*", "", "10.0.0.0/99"])
def test_what_is_neither_host_nor_network_is_named(entry: str) -> None:
    with pytest.raises(UserError, match="CRAWL_ALLOW_PRIVATE: .* is no host name, address or network"):
        allowed([entry])


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.org/a", None),
        ("https://example.org:8443/a", None),
        ("http://8.8.8.8/", None),
        ("http://example.org:99999/", "bad-address"),
        (f"http://{'a' * 64}.org/", "bad-address"),
        ("http://example..org/", "bad-address"),
        ("http://./", "bad-address"),
        ("http://\u0080.org/", "bad-address"),
        ("http://[bad/", "bad-address"),
        ("http://example.org:22/", "bad-address"),
        ("http://user@example.org/", "bad-address"),
        ("gopher://example.org/", "bad-address"),
        (f"http://example.org/{'a' * 8000}", "bad-address"),
        ("http://0x7f.1/", "host-private"),
        ("http://LOCALHOST/", "host-private"),
        ("http://db.localhost./", "host-private"),
    ],
)
def test_what_an_address_itself_tells(url: str, reason: str | None) -> None:
    withheld = refusal(url, Allowed())
    assert (withheld and withheld.reason) == reason


def test_proxies_of_the_environment_are_not_used(tmp_path: Path) -> None:
    """They would resolve names themselves, where nothing guards them."""
    with hostile({"/page": answer(b"page")}) as server, hostile({}, other=answer(b"by proxy")) as proxy:
        told = probe(tmp_path, [f"{server.url}/page"], environment={"http_proxy": proxy.url, "HTTP_PROXY": proxy.url})
    assert told.outcomes[0]["body"] == "page"
    assert proxy.asked == []


@pytest.mark.slow
def test_certificates_are_checked_and_a_way_from_https_to_http_is_noted(tmp_path: Path) -> None:
    plain = {"/page": answer(b"page")}
    with hostile(plain) as target, hostile({"/": redirect(f"{target.url}/page")}, tls=self_signed(tmp_path)) as secure:
        checked = probe(tmp_path, [f"{secure.url}/"])
        unchecked = probe(tmp_path, [f"{secure.url}/"], DOWNLOAD_VERIFY_CERTIFICATES=False)
    assert checked.reasons() == ["robots-failed"]
    assert "certificate verify failed" in checked.outcomes[0]["detail"]
    assert unchecked.reasons() == [200]
    assert unchecked.stats["artgate/https-to-http"] == 1


def self_signed(folder: Path) -> ssl.SSLContext:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "pem").write_bytes(key.private_bytes(pem, pkcs8, plain) + certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pem")
    return context
