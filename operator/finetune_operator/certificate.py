"""The progress server's certificate: an authority and a leaf of our own, made here and kept in one Secret.

Pure but for randomness. `ensure_current` says what to keep and what to replace; certificate_store.py reads and
writes the Secret. A new authority is published long before it signs what is served: processes in running pods may
have read the authorities once, at their start.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
# Clocks of nodes differ: what was made just now must be valid on one that is slow.
CLOCK_SKEW = timedelta(hours=1)

CA_CERTIFICATE, CA_KEY = "ca.crt", "ca.key"
CERTIFICATE, KEY = "tls.crt", "tls.key"


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its private key, PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True)
class Bundle:
    """What the Secret holds. `authorities`: the newest first, to which the key belongs; pods trust all of them.

    For two months after a new authority was made the leaf is still one of the old authority, whose key is gone.
    """

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

    @property
    def expirations(self) -> tuple[datetime, datetime]:
        """When the leaf and the newest authority end."""
        return _load(self.leaf.certificate).not_valid_after_utc, _newest(self).not_valid_after_utc


def load_bundle(data: Mapping[str, bytes]) -> Bundle | None:
    """Read the Secret's keys; None where it is empty, incomplete or damaged, which a new bundle mends."""
    try:
        bundle = Bundle(data[CA_CERTIFICATE], data[CA_KEY], KeyPair(data[CERTIFICATE], data[KEY]))
        is_whole = (
            _belongs(bundle.authority_key, _newest(bundle))
            and _belongs(bundle.leaf.key, _load(bundle.leaf.certificate))
            and _issuer_of_leaf(bundle) is not None
        )
    except (KeyError, ValueError, TypeError):
        return None
    return bundle if is_whole else None


def ensure_current(bundle: Bundle | None, host: str, now: datetime) -> Bundle:
    """The same bundle while it is good; else one with a new leaf, a new authority, or without one that has ended."""
    if bundle is None or not _is_valid(_newest(bundle), now):
        return _begin_anew(bundle, host, now)
    bundle = replace(bundle, authorities=_still_valid(bundle, now))
    issuer = _issuer_of_leaf(bundle)
    if _ends_before(_newest(bundle), now + AUTHORITY_RENEWED_BEFORE):
        return _hand_over(bundle, host, now)
    leaf = _load(bundle.leaf.certificate)
    is_due = _ends_before(leaf, now + LEAF_RENEWED_BEFORE) or not _is_valid(leaf, now)
    if issuer is None or is_due or not _is_for(leaf, host):
        return replace(bundle, leaf=_issue_leaf(bundle, host, now))
    return bundle


def _begin_anew(bundle: Bundle | None, host: str, now: datetime) -> Bundle:
    """An authority and a leaf of it: the first ones, or where nothing of the old can be used any more."""
    authority = _make_authority(now)
    known = _still_valid(bundle, now) if bundle else b""
    bundle = Bundle(authority.certificate + known, authority.key, KeyPair(b"", b""))
    return replace(bundle, leaf=_issue_leaf(bundle, host, now))


def _hand_over(bundle: Bundle, host: str, now: datetime) -> Bundle:
    """Publish the next authority. The old one's last act is a leaf that lasts until all pods know the next."""
    authority = _make_authority(now)
    return Bundle(authority.certificate + bundle.authorities, authority.key, _issue_leaf(bundle, host, now))


def _load(certificate: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(certificate)


def _authorities(bundle: Bundle) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(bundle.authorities)


def _newest(bundle: Bundle) -> x509.Certificate:
    return _authorities(bundle)[0]


def _belongs(key: bytes, certificate: x509.Certificate) -> bool:
    private = serialization.load_pem_private_key(key, None)
    return (
        isinstance(private, ec.EllipticCurvePrivateKey) and private.public_key() == certificate.public_key()
    )


def _issuer_of_leaf(bundle: Bundle) -> x509.Certificate | None:
    leaf = _load(bundle.leaf.certificate)
    return next((each for each in _authorities(bundle) if _has_issued(each, leaf)), None)


def _has_issued(authority: x509.Certificate, leaf: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
    except Exception:  # cryptography raises ValueError, TypeError or InvalidSignature: all mean no.
        return False
    return True


def _is_valid(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


def _ends_before(certificate: x509.Certificate, time: datetime) -> bool:
    return certificate.not_valid_after_utc < time


def _is_for(leaf: x509.Certificate, host: str) -> bool:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    return _alternative_name(host) in names


def _alternative_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _make_authority(now: datetime) -> KeyPair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("finetune-operator CA")
    certificate = (
        _builder(name, name, key.public_key(), now, now + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(_pem(certificate), _private_pem(key))


def _still_valid(bundle: Bundle, now: datetime) -> bytes:
    return b"".join(_pem(each) for each in _authorities(bundle) if not _ends_before(each, now))


def _issue_leaf(bundle: Bundle, host: str, now: datetime) -> KeyPair:
    authority = _newest(bundle)
    authority_key = serialization.load_pem_private_key(bundle.authority_key, None)
    assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    end = min(now + LEAF_LIFE, authority.not_valid_after_utc)
    certificate = (
        _builder(_name("finetune-operator"), authority.subject, key.public_key(), now, end)
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
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(end)
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
