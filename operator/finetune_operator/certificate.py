"""The progress server's certificate: an authority and a leaf of our own, made here and kept in one Secret.

Pure but for randomness. `ensure_current` says what to keep and what to replace; certificate_store.py reads and
writes the Secret.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFE = timedelta(days=3650)
LEAF_LIFE = timedelta(days=90)
# A new authority must have reached every running pod (the kubelet syncs within minutes) long before the old one ends.
AUTHORITY_RENEWED_BEFORE = timedelta(days=365)
LEAF_RENEWED_BEFORE = timedelta(days=30)
CLOCK_SKEW = timedelta(minutes=5)

CA_CERTIFICATE, CA_KEY = "ca.crt", "ca.key"
CERTIFICATE, KEY = "tls.crt", "tls.key"


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its private key, PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True)
class Bundle:
    """What the Secret holds. `authorities`: the signing one first, then those that pods may still know."""

    authorities: bytes
    authority_key: bytes
    leaf: KeyPair

    @property
    def data(self) -> dict[str, bytes]:
        """The Secret's keys."""
        return {
            CA_CERTIFICATE: self.authorities,
            CA_KEY: self.authority_key,
            CERTIFICATE: self.leaf.certificate,
            KEY: self.leaf.key,
        }


def load_bundle(data: Mapping[str, bytes]) -> Bundle | None:
    """Read the Secret's keys; None where it is empty, incomplete or damaged, which a new bundle mends."""
    try:
        bundle = Bundle(data[CA_CERTIFICATE], data[CA_KEY], KeyPair(data[CERTIFICATE], data[KEY]))
        x509.load_pem_x509_certificates(bundle.authorities)
        x509.load_pem_x509_certificate(bundle.leaf.certificate)
        serialization.load_pem_private_key(bundle.authority_key, None)
        serialization.load_pem_private_key(bundle.leaf.key, None)
    except (KeyError, ValueError):
        return None
    return bundle


def ensure_current(bundle: Bundle | None, host: str, now: datetime) -> Bundle:
    """The same bundle while it is good; else one with a new leaf, or with a new authority as well."""
    if bundle is None or _ends_before(_signing(bundle), now + AUTHORITY_RENEWED_BEFORE):
        return _renew_authority(bundle, host, now)
    leaf = x509.load_pem_x509_certificate(bundle.leaf.certificate)
    if _ends_before(leaf, now + LEAF_RENEWED_BEFORE) or not _is_for(leaf, host) or not _signed(bundle, leaf):
        return Bundle(bundle.authorities, bundle.authority_key, _issue_leaf(bundle, host, now))
    return bundle


def _signing(bundle: Bundle) -> x509.Certificate:
    return x509.load_pem_x509_certificates(bundle.authorities)[0]


def _ends_before(certificate: x509.Certificate, time: datetime) -> bool:
    return certificate.not_valid_after_utc < time


def _signed(bundle: Bundle, leaf: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(_signing(bundle))
    except Exception:  # cryptography raises ValueError, TypeError or InvalidSignature: all mean no.
        return False
    return True


def _is_for(leaf: x509.Certificate, host: str) -> bool:
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return _alternative_name(host) in names


def _alternative_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _renew_authority(bundle: Bundle | None, host: str, now: datetime) -> Bundle:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("finetune-operator CA")
    certificate = (
        _builder(name, name, key.public_key(), now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    authorities = _pem(certificate) + (_still_valid(bundle, now) if bundle else b"")
    renewed = Bundle(authorities, _private_pem(key), KeyPair(b"", b""))
    return Bundle(authorities, renewed.authority_key, _issue_leaf(renewed, host, now))


def _still_valid(bundle: Bundle, now: datetime) -> bytes:
    known = x509.load_pem_x509_certificates(bundle.authorities)
    return b"".join(_pem(each) for each in known if not _ends_before(each, now))


def _issue_leaf(bundle: Bundle, host: str, now: datetime) -> KeyPair:
    authority = _signing(bundle)
    authority_key = serialization.load_pem_private_key(bundle.authority_key, None)
    assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(_name("finetune-operator"), authority.subject, key.public_key(), now, LEAF_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_alternative_name(host)]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    return KeyPair(_pem(certificate), _private_pem(key))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + life)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
