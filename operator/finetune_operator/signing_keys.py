"""The public keys by which a cluster's tokens are verified: a JSON Web Key Set, parsed and asked for a signature.

A key says by which algorithm it signs; what a token's header claims is only compared, so that nobody can choose
`none` or take a public key for a shared secret. Source: RFC 7517, RFC 7518.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from finetune_operator.kubernetes_objects import JsonObject

MIN_RSA_BITS = 2048


@dataclass(frozen=True)
class _Curve:
    algorithm: str
    curve: ec.EllipticCurve
    digest: hashes.HashAlgorithm


_CURVES = {
    "P-256": _Curve("ES256", ec.SECP256R1(), hashes.SHA256()),
    "P-384": _Curve("ES384", ec.SECP384R1(), hashes.SHA384()),
    "P-521": _Curve("ES512", ec.SECP521R1(), hashes.SHA512()),
}


@dataclass(frozen=True)
class RsaKey:
    """A key that signs by RS256, the only RSA algorithm of kube-apiserver."""

    key: rsa.RSAPublicKey
    algorithm: str = "RS256"

    def has_signed(self, signed: bytes, signature: bytes) -> bool:
        """Whether this is the key's signature."""
        try:
            self.key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class EllipticCurveKey:
    """A key that signs by the ECDSA algorithm of its curve."""

    key: ec.EllipticCurvePublicKey
    algorithm: str
    digest: hashes.HashAlgorithm

    def has_signed(self, signed: bytes, signature: bytes) -> bool:
        """Whether this is the key's signature: r and s, one after the other, each as long as the curve's order."""
        length = (self.key.key_size + 7) // 8
        if len(signature) != 2 * length:
            return False
        r, s = int.from_bytes(signature[:length]), int.from_bytes(signature[length:])
        try:
            self.key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(self.digest))
        except InvalidSignature:
            return False
        return True


SigningKey = RsaKey | EllipticCurveKey


def parse_key_set(body: JsonObject) -> Mapping[str, SigningKey]:
    """The usable keys by their ids; keys of other kinds are left out. Raises ValueError where it is no key set."""
    listed = body.get("keys")
    if not isinstance(listed, list):
        raise ValueError("it has no list `keys`, so it is no JSON Web Key Set")
    parsed = {each.get("kid"): _parse_key(each) for each in listed if isinstance(each, dict)}
    return {key_id: key for key_id, key in parsed.items() if isinstance(key_id, str) and key is not None}


def _parse_key(body: JsonObject) -> SigningKey | None:
    if body.get("use", "sig") != "sig":
        return None
    try:
        match body.get("kty"):
            case "RSA":
                key = rsa.RSAPublicNumbers(_integer(body["e"]), _integer(body["n"])).public_key()
                return RsaKey(key) if key.key_size >= MIN_RSA_BITS else None
            case "EC":
                kind = _CURVES[body["crv"]]
                point = ec.EllipticCurvePublicNumbers(_integer(body["x"]), _integer(body["y"]), kind.curve)
                return EllipticCurveKey(point.public_key(), kind.algorithm, kind.digest)
            case _:
                return None
    except (KeyError, TypeError, ValueError):
        return None


def _integer(text: str) -> int:
    try:
        return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except binascii.Error as error:
        raise ValueError("not base64url") from error
