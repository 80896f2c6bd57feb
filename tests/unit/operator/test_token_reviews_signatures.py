"""Tokens verified by the cluster's published keys: what is refused, and how keys are read anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives import hmac as cryptography_hmac
from cryptography.hazmat.primitives.asymmetric import ec

from finetune_operator.cluster import TokenVerdict, Unavailable
from finetune_operator.jwt_verifier import JwtVerifier, KeyFile
from finetune_operator.signing_keys import parse_key_set
from tests.unit.operator.pod_tokens import (
    EPOCH,
    ISSUER,
    POD_1,
    Signer,
    encode,
    make_claims,
    make_ec_signer,
    make_rsa_signer,
)

AUDIENCE = "finetune-operator"
RSA, ANOTHER = make_rsa_signer(), make_rsa_signer("another")
REFUSED = TokenVerdict(False)
ACCEPTED = TokenVerdict(True, "system:serviceaccount:ml:default", POD_1.name, POD_1.uid)


class Keys:
    """The API server's part: publishes keys, and counts how often they were read."""

    def __init__(self, *signers: Signer) -> None:
        self.signers = list(signers)
        self.available = True
        self.read = 0

    async def read_issuer(self) -> dict[str, Any]:
        if not self.available:
            raise Unavailable("no answer")
        return {"issuer": ISSUER, "jwks_uri": "https://10.0.0.1/openid/v1/jwks"}

    async def read_signing_keys(self) -> dict[str, Any]:
        self.read += 1
        return {"keys": [signer.publish() for signer in self.signers]}


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys() -> Keys:
    return Keys(RSA)


@pytest.fixture
def verifier(keys: Keys, clock: Clock) -> JwtVerifier:
    return JwtVerifier(keys, monotonic=clock, wall_clock=lambda: EPOCH + clock.now)


@pytest.mark.parametrize(
    "signer",
    [
        pytest.param(RSA, id="RS256"),
        pytest.param(make_ec_signer(ec.SECP256R1()), id="ES256"),
        pytest.param(make_ec_signer(ec.SECP384R1()), id="ES384"),
        pytest.param(make_ec_signer(ec.SECP521R1()), id="ES512"),
    ],
)
async def test_a_genuine_token_tells_its_pod(verifier: JwtVerifier, keys: Keys, signer: Signer) -> None:
    keys.signers = [ANOTHER, signer]

    assert await verifier.review_token(signer.sign(make_claims()), AUDIENCE) == ACCEPTED


async def test_one_audience_may_stand_without_a_list(verifier: JwtVerifier) -> None:
    assert await verifier.review_token(RSA.sign(make_claims(aud=AUDIENCE)), AUDIENCE) == ACCEPTED


def tampered(change: Callable[[list[str]], None]) -> str:
    parts = RSA.sign(make_claims()).split(".")
    change(parts)
    return ".".join(parts)


def replace_claims(parts: list[str]) -> None:
    parts[1] = encode(make_claims(sub="system:serviceaccount:ml:admin"))


def replace_header(**header: Any) -> Callable[[list[str]], None]:
    def change(parts: list[str]) -> None:
        parts[0] = encode({"kid": RSA.key_id, **header})

    return change


def sign_with_the_public_key_as_secret() -> str:
    """The classic confusion: HS256 with the published key as the shared secret."""
    secret = RSA.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    signed = f"{encode({'alg': 'HS256', 'kid': RSA.key_id})}.{encode(make_claims())}"
    code = cryptography_hmac.HMAC(secret, hashes.SHA256())
    code.update(signed.encode())
    return f"{signed}.{encode(code.finalize())}"


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(RSA.sign(make_claims(aud=["https://kubernetes.default.svc"])), id="another audience"),
        pytest.param(RSA.sign(make_claims(aud=[])), id="no audience"),
        pytest.param(RSA.sign(make_claims(expires_in=0)), id="expired just now"),
        pytest.param(RSA.sign(make_claims(nbf=EPOCH + 61)), id="not valid yet"),
        pytest.param(RSA.sign(make_claims(iss="https://another.cluster")), id="another issuer"),
        pytest.param(RSA.sign(make_claims(iss=ISSUER + "/")), id="an issuer that only looks the same"),
        pytest.param(
            RSA.sign(make_claims(sub="system:serviceaccount:other:default")), id="another namespace's account"
        ),
        pytest.param(RSA.sign(make_claims(sub="alice")), id="no service account"),
        pytest.param(RSA.sign({**make_claims(), "kubernetes.io": {"namespace": "ml"}}), id="bound to no pod"),
        pytest.param(ANOTHER.sign(make_claims(), kid=RSA.key_id), id="another key under a known name"),
        pytest.param(ANOTHER.sign(make_claims()), id="an unknown key"),
        pytest.param(RSA.sign(make_claims(), kid=""), id="no key named"),
        pytest.param(RSA.sign(make_claims(), alg="none"), id="algorithm none, signed by the right key"),
        pytest.param(RSA.sign(make_claims(), alg="RS512"), id="another algorithm than the signature's"),
        pytest.param(tampered(replace_claims), id="claims changed"),
        pytest.param(tampered(replace_header(alg="none")), id="algorithm none, signature kept"),
        pytest.param(tampered(replace_header(alg="RS512")), id="header changed"),
        pytest.param(tampered(lambda parts: parts.__setitem__(2, "")), id="no signature"),
        pytest.param(
            f"{encode({'alg': 'none', 'kid': RSA.key_id})}.{encode(make_claims())}.", id="algorithm none"
        ),
        pytest.param(
            f"{encode({'alg': 'None', 'kid': RSA.key_id})}.{encode(make_claims())}.", id="algorithm None"
        ),
        pytest.param(sign_with_the_public_key_as_secret(), id="the public key as a shared secret"),
        pytest.param("nonsense", id="no token"),
    ],
)
async def test_a_token_that_is_not_genuine_current_and_for_us_is_refused(
    verifier: JwtVerifier, token: str
) -> None:
    assert await verifier.review_token(token, AUDIENCE) == REFUSED


@pytest.mark.parametrize("length", [0, 63, 65, 72])
async def test_an_elliptic_signature_of_another_length_is_refused(
    verifier: JwtVerifier, keys: Keys, length: int
) -> None:
    signer = make_ec_signer(ec.SECP256R1())
    keys.signers = [signer]
    header, claims, _ = signer.sign(make_claims()).split(".")

    token = f"{header}.{claims}.{encode(b'x' * length)}"
    assert await verifier.review_token(token, AUDIENCE) == REFUSED


async def test_a_clock_that_is_a_little_behind_does_not_refuse_new_tokens(verifier: JwtVerifier) -> None:
    assert await verifier.review_token(RSA.sign(make_claims(nbf=EPOCH + 59)), AUDIENCE) == ACCEPTED


# --- keys ---------------------------------------------------------------------------------------------------------


async def test_keys_are_read_once_and_then_every_ten_minutes(
    verifier: JwtVerifier, keys: Keys, clock: Clock
) -> None:
    for clock.now in (0, 1, 599):
        await verifier.review_token(RSA.sign(make_claims()), AUDIENCE)
    assert keys.read == 1

    clock.now = 600
    await verifier.review_token(RSA.sign(make_claims()), AUDIENCE)
    assert keys.read == 2


async def test_after_a_rotation_the_new_key_is_known_at_once(
    verifier: JwtVerifier, keys: Keys, clock: Clock
) -> None:
    await verifier.review_token(RSA.sign(make_claims()), AUDIENCE)
    keys.signers.append(ANOTHER)

    clock.now = 11
    assert await verifier.review_token(ANOTHER.sign(make_claims()), AUDIENCE) == ACCEPTED


async def test_tokens_with_unknown_keys_cannot_make_us_ask_without_end(
    verifier: JwtVerifier, keys: Keys, clock: Clock
) -> None:
    for second in range(100):
        clock.now = second / 10
        await verifier.review_token(ANOTHER.sign(make_claims(), kid=f"k{second}"), AUDIENCE)

    assert keys.read == 1


async def test_a_withdrawn_key_is_believed_for_ten_minutes_at_most(
    verifier: JwtVerifier, keys: Keys, clock: Clock
) -> None:
    await verifier.review_token(RSA.sign(make_claims()), AUDIENCE)
    keys.signers = [ANOTHER]

    clock.now = 601
    assert await verifier.review_token(RSA.sign(make_claims()), AUDIENCE) == REFUSED


async def test_while_the_api_server_is_away_the_known_keys_are_used_on(
    verifier: JwtVerifier, keys: Keys, clock: Clock
) -> None:
    await verifier.review_token(RSA.sign(make_claims()), AUDIENCE)
    keys.available = False

    clock.now = 3000
    assert await verifier.review_token(RSA.sign(make_claims()), AUDIENCE) == ACCEPTED


async def test_without_any_keys_pods_are_told_to_come_again(verifier: JwtVerifier, keys: Keys) -> None:
    keys.available = False

    with pytest.raises(Unavailable):
        await verifier.review_token(RSA.sign(make_claims()), AUDIENCE)


async def test_keys_may_come_from_a_file(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "keys.json"
    verifier = JwtVerifier(KeyFile(str(path), ISSUER), monotonic=clock, wall_clock=lambda: EPOCH)
    with pytest.raises(Unavailable):
        await verifier.review_token(RSA.sign(make_claims()), AUDIENCE)

    path.write_text(json.dumps({"keys": [RSA.publish()]}))
    clock.now = 10
    assert await verifier.review_token(RSA.sign(make_claims()), AUDIENCE) == ACCEPTED


@pytest.mark.parametrize(
    "key",
    [
        pytest.param({**RSA.publish(), "use": "enc"}, id="for encryption"),
        pytest.param({**RSA.publish(), "n": "!"}, id="no number"),
        pytest.param({**RSA.publish(), "kid": 7}, id="no name"),
        pytest.param({**RSA.publish(), "kty": "oct", "k": "c2VjcmV0"}, id="a shared secret"),
        pytest.param(make_rsa_signer(bits=1024).publish(), id="a short RSA key"),
        pytest.param({**make_ec_signer(ec.SECP256R1()).publish(), "x": "AA"}, id="a point off the curve"),
        pytest.param({**make_ec_signer(ec.SECP256R1()).publish(), "crv": "P-192"}, id="an unknown curve"),
        pytest.param("text", id="no object"),
    ],
)
def test_a_key_that_cannot_be_used_is_left_out(key: Any) -> None:
    assert list(parse_key_set({"keys": [key, ANOTHER.publish()]})) == ["another"]


@pytest.mark.parametrize("body", [{}, {"keys": {}}, {"keys": None}])
def test_what_is_no_key_set_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no JSON Web Key Set"):
        parse_key_set(body)
