"""The certificate: made when there is none, kept while it is good, renewed in time."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from finetune_operator.certificate import Bundle, ensure_current, load_bundle

HOST = "finetune-operator.finetune-system.svc"
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return ensure_current(None, HOST, NOW)


def authorities(bundle: Bundle) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(bundle.authorities)


def leaf(bundle: Bundle) -> x509.Certificate:
    return x509.load_pem_x509_certificate(bundle.leaf.certificate)


def test_a_good_one_is_kept(bundle: Bundle) -> None:
    assert ensure_current(bundle, HOST, NOW + timedelta(days=59)) == bundle


def test_the_secret_brings_it_back(bundle: Bundle) -> None:
    assert load_bundle(bundle.data) == bundle


@pytest.mark.parametrize("damage", ["ca.crt", "ca.key", "tls.crt", "tls.key"])
def test_an_incomplete_or_damaged_secret_is_no_bundle(bundle: Bundle, damage: str) -> None:
    without = {name: value for name, value in bundle.data.items() if name != damage}

    assert load_bundle({}) is None
    assert load_bundle(without) is None
    assert load_bundle({**without, damage: b"garbage"}) is None


def test_the_leaf_is_renewed_a_month_before_its_end_under_the_same_authority(bundle: Bundle) -> None:
    renewed = ensure_current(bundle, HOST, NOW + timedelta(days=61))

    assert renewed.authorities == bundle.authorities
    assert leaf(renewed).not_valid_after_utc > leaf(bundle).not_valid_after_utc


def test_another_host_gets_another_leaf(bundle: Bundle) -> None:
    renewed = ensure_current(bundle, "127.0.0.1", NOW)

    names = leaf(renewed).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_pods_know_the_old_authority_and_the_new_one_while_both_are_valid(bundle: Bundle) -> None:
    renewed = ensure_current(bundle, HOST, NOW + timedelta(days=3650 - 300))

    assert len(authorities(renewed)) == 2
    assert authorities(renewed)[1] == authorities(bundle)[0]
    leaf(renewed).verify_directly_issued_by(authorities(renewed)[0])


def test_an_authority_that_has_ended_is_dropped(bundle: Bundle) -> None:
    renewed = ensure_current(bundle, HOST, NOW + timedelta(days=3651))

    assert len(authorities(renewed)) == 1


def test_a_client_that_trusts_the_authority_accepts_the_server_under_its_name(
    bundle: Bundle, tmp_path: Path
) -> None:
    """A TLS handshake in memory, with the checks that the trainer's client makes."""
    pem = tmp_path / "server.pem"
    pem.write_bytes(bundle.leaf.certificate + bundle.leaf.key)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(pem)
    client_context = ssl.create_default_context(cadata=bundle.authorities.decode())
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=HOST)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)

    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue

    assert client.getpeercert()
