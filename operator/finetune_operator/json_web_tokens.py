"""A service account token taken apart: what it claims, and what its signature is over. Nothing is verified here.

Source: RFC 7519, and the claims that kube-apiserver writes (pkg/serviceaccount/claims.go).
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from dataclasses import dataclass

from finetune_operator.kubernetes_objects import JsonObject


@dataclass(frozen=True)
class PodClaims:
    """What a token that is bound to a pod says about itself. Times are Unix times."""

    issuer: str
    subject: str
    audiences: tuple[str, ...]
    not_before: float
    expires: float
    namespace: str
    pod_name: str
    pod_uid: str


@dataclass(frozen=True)
class PodToken:
    """A token that is bound to a pod."""

    algorithm: str
    key_id: str
    claims: PodClaims
    signed: bytes
    signature: bytes


def parse_token(text: str) -> PodToken | None:
    """Take a token apart; None where it is malformed or bound to no pod."""
    parts = text.split(".")
    if len(parts) != 3:
        return None
    try:
        header, payload = _decode_object(parts[0]), _decode_object(parts[1])
        return PodToken(
            algorithm=_text(header["alg"]),
            key_id=_text(header.get("kid", "")),
            claims=_read_claims(payload),
            signed=f"{parts[0]}.{parts[1]}".encode("ascii"),
            signature=_decode(parts[2]),
        )
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def _read_claims(payload: JsonObject) -> PodClaims:
    bound = payload["kubernetes.io"]
    audiences = payload["aud"]
    return PodClaims(
        issuer=_text(payload["iss"]),
        subject=_text(payload["sub"]),
        audiences=(audiences,) if isinstance(audiences, str) else tuple(map(_text, audiences)),
        not_before=_number(payload.get("nbf", 0)),
        expires=_number(payload["exp"]),
        namespace=_text(bound["namespace"]),
        pod_name=_text(bound["pod"]["name"]),
        pod_uid=_text(bound["pod"]["uid"]),
    )


def _decode_object(part: str) -> JsonObject:
    value = json.loads(_decode(part))
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return value


def _decode(part: str) -> bytes:
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64url") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number
