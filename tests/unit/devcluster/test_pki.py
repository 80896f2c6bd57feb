"""Certificates made with the real openssl."""

import ssl
import stat
import subprocess
from pathlib import Path

import pytest

from devcluster import pki
from devcluster.errors import DevClusterError
from devcluster.pki import Authority


def describe(path: Path) -> str:
    command = ["openssl", "x509", "-in", str(path), "-noout", "-text"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("pki"), "test-ca")
    authority.ensure()
    return authority


def test_a_certificate_carries_its_subject_and_names_and_is_trusted(authority: Authority) -> None:
    issued = authority.issue("api", "/O=system:masters/CN=admin", ["10.89.0.1"], ["localhost"])
    text = describe(issued.certificate)
    assert "O = system:masters, CN = admin" in text
    assert "IP Address:10.89.0.1, DNS:localhost" in text
    command = ["openssl", "verify", "-CAfile", str(authority.certificate), str(issued.certificate)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    ssl.create_default_context().load_cert_chain(issued.certificate, issued.key)


def test_what_exists_is_not_made_again(authority: Authority) -> None:
    before = authority.certificate.read_bytes()
    first = authority.issue("again", "/CN=again").certificate.read_bytes()
    authority.ensure()
    assert authority.certificate.read_bytes() == before
    assert authority.issue("again", "/CN=again").certificate.read_bytes() == first


def test_keys_are_readable_by_their_owner_only(authority: Authority) -> None:
    issued = authority.issue("private", "/CN=private")
    account = pki.ensure_service_account_key(authority.folder)
    for key in (authority.key, issued.key, account.key):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(authority.folder.stat().st_mode) == 0o700


def test_a_machine_without_openssl_is_told_so(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DevClusterError, match="openssl program is missing; install"):
        authority.issue("missing", "/CN=missing")
