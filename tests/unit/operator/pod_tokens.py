"""Tokens as kube-apiserver issues them to pods, and the key sets that it publishes."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from finetune_operator.token_reviews import PodIdentity

EPOCH = 1_000_000.0
ISSUER = "https://kubernetes.default.svc.cluster.local"
POD_1 = PodIdentity("ml", "bot-train-1-0-abcde", "pod-1")


def make_claims(pod: PodIdentity = POD_1, expires_in: float = 3600, **changes: Any) -> dict[str, Any]:
    """The payload of a token that is bound to a pod. Source: kubernetes, pkg/serviceaccount/claims.go."""
    return {
        "iss": ISSUER,
        "sub": f"system:serviceaccount:{pod.namespace}:default",
        "aud": ["finetune-operator"],
        "iat": int(EPOCH),
        "nbf": int(EPOCH),
        "exp": int(EPOCH + expires_in),
        "kubernetes.io": {
            "namespace": pod.namespace,
            "node": {"name": "node-1"},
            "pod": {"name": pod.name, "uid": pod.uid},
            "serviceaccount": {"name": "default", "uid": "s"},
        },
        **changes,
    }


def encode(value: bytes | dict[str, Any]) -> str:
    """base64url without padding."""
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def make_token(pod: PodIdentity = POD_1, expires_in: float = 3600, **changes: Any) -> str:
    """A token whose signature nobody looks at."""
    header = encode({"alg": "RS256", "kid": "k"})
    return f"{header}.{encode(make_claims(pod, expires_in, **changes))}.{encode(b'signature')}"


@dataclass(frozen=True)
class Signer:
    """A cluster's key: signs tokens and publishes itself."""

    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    key_id: str
    algorithm: str

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        """A token with a valid signature; `header` overrides what its header says."""
        fields = {"alg": self.algorithm, "kid": self.key_id, **header}
        signed = f"{encode(fields)}.{encode(claims)}"
        return f"{signed}.{encode(self._signature(signed.encode()))}"

    def _signature(self, signed: bytes) -> bytes:
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
        digest = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[self.key.key_size]
        r, s = decode_dss_signature(self.key.sign(signed, ec.ECDSA(digest)))
        length = (self.key.key_size + 7) // 8
        return r.to_bytes(length) + s.to_bytes(length)

    def publish(self) -> dict[str, Any]:
        """Its public half, as a JSON Web Key."""
        common = {"use": "sig", "kid": self.key_id, "alg": self.algorithm}
        if isinstance(self.key, rsa.RSAPrivateKey):
            numbers = self.key.public_key().public_numbers()
            length = (numbers.n.bit_length() + 7) // 8
            return {**common, "kty": "RSA", "n": encode(numbers.n.to_bytes(length)), "e": "AQAB"}
        point = self.key.public_key().public_numbers()
        length = (self.key.key_size + 7) // 8
        curve = {256: "P-256", 384: "P-384", 521: "P-521"}[self.key.key_size]
        x, y = encode(point.x.to_bytes(length)), encode(point.y.to_bytes(length))
        return {**common, "kty": "EC", "crv": curve, "x": x, "y": y}


def make_rsa_signer(key_id: str = "rsa", bits: int = 2048) -> Signer:
    """A key of kube-apiserver's usual kind."""
    return Signer(rsa.generate_private_key(65537, bits), key_id, "RS256")


def make_ec_signer(curve: ec.EllipticCurve, key_id: str = "ec") -> Signer:
    """A key on an elliptic curve."""
    algorithm = {256: "ES256", 384: "ES384", 521: "ES512"}[curve.key_size]
    return Signer(ec.generate_private_key(curve), key_id, algorithm)
