"""The certificate: made when there is none, kept while it is good, renewed in time, and never to a client's harm."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from finetune_operator.certificate import Bundle, KeyPair, ensure_current, load_bundle

HOST = "finetune-operator.finetune-system.svc"
NOW = datetime.now(UTC)
DAY = timedelta(days=1)
# The authority ends in 300 days: its successor is due.
AUTHORITY_DUE = NOW + 3350 * DAY


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return ensure_current(None, HOST, NOW)


@pytest.fixture(scope="module")
def other() -> Bundle:
    """Another installation's."""
    return ensure_current(None, HOST, NOW)


def authorities(bundle: Bundle) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(bundle.authorities)


def leaf(bundle: Bundle) -> x509.Certificate:
    return x509.load_pem_x509_certificate(bundle.leaf.certificate)


def serve(bundle: Bundle, folder: Path, tls: ssl.SSLContext | None = None) -> ssl.SSLContext:
    """A server's context; the same one again takes a renewed certificate in, as the operator's does."""
    tls = tls or ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pem = folder / "server.pem"
    pem.write_bytes(bundle.leaf.certificate + bundle.leaf.key)
    tls.load_cert_chain(pem)
    return tls


def is_trusted_by(known: bytes, server_tls: ssl.SSLContext, host: str = HOST) -> bool:
    """A TLS handshake in memory, with the checks that the trainer's client makes."""
    client_tls = ssl.create_default_context(cadata=known.decode())
    client_tls.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_tls.wrap_bio(to_client, to_server, server_hostname=host)
    server = server_tls.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
    return client.getpeercert() is not None


def test_a_good_one_is_kept(bundle: Bundle) -> None:
    assert ensure_current(bundle, HOST, NOW + 59 * DAY) == bundle


def test_the_secret_brings_it_back(bundle: Bundle) -> None:
    assert load_bundle(bundle.data) == bundle


@pytest.mark.parametrize("damage", ["ca.crt", "ca.key", "tls.crt", "tls.key"])
@pytest.mark.parametrize(
    "content", [None, b"", b"garbage", b"\xff\xfe"], ids=["missing", "empty", "garbage", "binary"]
)
def test_an_incomplete_or_damaged_secret_is_no_bundle(
    bundle: Bundle, damage: str, content: bytes | None
) -> None:
    without = {name: value for name, value in bundle.data.items() if name != damage}

    assert load_bundle({}) is None
    assert load_bundle(without if content is None else {**without, damage: content}) is None


@pytest.mark.parametrize("foreign", ["ca.crt", "ca.key", "tls.crt", "tls.key"])
def test_parts_that_do_not_belong_together_are_no_bundle(bundle: Bundle, other: Bundle, foreign: str) -> None:
    """Two operators' halves, or somebody's hand: the server could not even load it."""
    assert load_bundle({**bundle.data, foreign: other.data[foreign]}) is None


def test_a_key_of_another_kind_is_no_bundle(bundle: Bundle) -> None:
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

    assert load_bundle({**bundle.data, "ca.key": key}) is None


def test_a_leaf_without_names_is_replaced(bundle: Bundle) -> None:
    authority_key = serialization.load_pem_private_key(bundle.authority_key, None)
    assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authorities(bundle)[0].subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + 60 * DAY)
        .sign(authority_key, hashes.SHA256())
    )
    nameless = KeyPair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )

    found = load_bundle({**bundle.data, "tls.crt": nameless.certificate, "tls.key": nameless.key})
    assert found is not None
    assert ensure_current(found, HOST, NOW).leaf != nameless


def test_the_leaf_is_renewed_a_month_before_its_end_under_the_same_authority(bundle: Bundle) -> None:
    renewed = ensure_current(bundle, HOST, NOW + 61 * DAY)

    assert renewed.authorities == bundle.authorities
    assert leaf(renewed).not_valid_after_utc > leaf(bundle).not_valid_after_utc


def test_another_host_gets_another_leaf(bundle: Bundle) -> None:
    renewed = ensure_current(bundle, "127.0.0.1", NOW)

    names = leaf(renewed).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_a_client_that_trusts_the_authority_accepts_the_server_under_its_name(
    bundle: Bundle, other: Bundle, tmp_path: Path
) -> None:
    server = serve(bundle, tmp_path)

    assert is_trusted_by(bundle.authorities, server)
    assert not is_trusted_by(bundle.authorities, server, "another.host")
    assert not is_trusted_by(other.authorities, server)


def test_a_new_authority_is_known_for_two_months_before_it_signs_what_is_served(bundle: Bundle) -> None:
    """A process may read the CA file once, at its start."""
    handed_over = ensure_current(bundle, HOST, AUTHORITY_DUE)
    assert authorities(handed_over)[1:] == authorities(bundle)
    leaf(handed_over).verify_directly_issued_by(authorities(bundle)[0])
    assert ensure_current(handed_over, HOST, AUTHORITY_DUE + 59 * DAY) == handed_over

    finished = ensure_current(handed_over, HOST, AUTHORITY_DUE + 61 * DAY)
    leaf(finished).verify_directly_issued_by(authorities(handed_over)[0])
    assert authorities(finished) == authorities(handed_over)


def test_the_handshake_succeeds_in_every_stage_of_a_rotation(tmp_path: Path) -> None:
    """With certificates that are valid today: the first authority was made nine years ago."""
    began = NOW - 3350 * DAY
    old = ensure_current(ensure_current(None, HOST, began), HOST, NOW - 364 * DAY)
    assert len(authorities(old)) == 1
    old = ensure_current(old, HOST, NOW - 66 * DAY)
    handed_over = ensure_current(old, HOST, NOW - 61 * DAY + timedelta(hours=2))
    finished = ensure_current(handed_over, HOST, NOW)

    server = serve(old, tmp_path)
    assert is_trusted_by(old.authorities, server)
    serve(handed_over, tmp_path, server)
    assert is_trusted_by(old.authorities, server), "a running process that knows only the old authority"
    assert is_trusted_by(handed_over.authorities, server), "a new pod"
    serve(finished, tmp_path, server)
    assert is_trusted_by(handed_over.authorities, server), "a pod that began during the rotation"
    assert is_trusted_by(finished.authorities, server)


def test_an_authority_that_has_ended_is_dropped(bundle: Bundle) -> None:
    handed_over = ensure_current(bundle, HOST, AUTHORITY_DUE)
    finished = ensure_current(handed_over, HOST, NOW + 3651 * DAY)

    assert authorities(finished) == authorities(handed_over)[:1]


def test_an_operator_that_was_away_until_the_authority_had_ended_begins_anew(bundle: Bundle) -> None:
    renewed = ensure_current(bundle, HOST, NOW + 4000 * DAY)

    assert len(authorities(renewed)) == 1
    assert leaf(renewed).not_valid_after_utc > NOW + 4000 * DAY


def test_a_leaf_never_outlives_its_authority(bundle: Bundle) -> None:
    late = ensure_current(bundle, HOST, NOW + 3640 * DAY)

    assert leaf(late).not_valid_after_utc <= authorities(bundle)[0].not_valid_after_utc


@pytest.mark.parametrize("minutes", [-59, 0, 59], ids=["slow", "right", "fast"])
def test_it_is_valid_at_once_on_nodes_whose_clocks_differ(bundle: Bundle, minutes: int) -> None:
    there = NOW + timedelta(minutes=minutes)

    for certificate in (leaf(bundle), *authorities(bundle)):
        assert certificate.not_valid_before_utc <= there < certificate.not_valid_after_utc


def test_one_that_was_made_by_a_clock_far_ahead_is_replaced(bundle: Bundle) -> None:
    ahead = ensure_current(None, HOST, NOW + 30 * DAY)
    leaf_ahead = ensure_current(bundle, HOST, NOW + 61 * DAY)

    assert ensure_current(ahead, HOST, NOW) != ahead
    assert leaf(ensure_current(leaf_ahead, HOST, NOW)).not_valid_before_utc < NOW
