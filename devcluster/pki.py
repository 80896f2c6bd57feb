"""Makes the cluster's certificates and keys with the openssl program.

Everything is made once per state folder and kept there, readable by its owner only.
"""

import secrets
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from devcluster.errors import DevClusterError
from devcluster.state import write_file

VALID_DAYS = "3650"
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """A certificate authority in a folder of its own."""

    folder: Path
    name: str

    @property
    def certificate(self) -> Path:
        return self.folder / f"{self.name}.crt"

    @property
    def key(self) -> Path:
        return self.folder / f"{self.name}.key"

    def ensure(self) -> None:
        """Create the authority unless it is there."""
        if self.certificate.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        _openssl(
            *("req", "-x509", "-new", *NEW_KEY, "-days", VALID_DAYS, "-subj", f"/CN={self.name}"),
            *("-addext", "keyUsage=critical,keyCertSign,digitalSignature"),
            *("-keyout", self.key, "-out", self.certificate),
        )

    def issue(
        self, name: str, subject: str, addresses: Sequence[str] = (), dns_names: Sequence[str] = ()
    ) -> Certificate:
        """Return the certificate of this name, signing it first unless it is there."""
        issued = Certificate(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        if issued.certificate.exists():
            return issued
        request = self.folder / f"{name}.csr"
        extensions = write_file(self.folder / f"{name}.ext", build_extensions(addresses, dns_names))
        _openssl("req", "-new", *NEW_KEY, "-subj", subject, "-keyout", issued.key, "-out", request)
        _openssl(
            *(
                "x509",
                "-req",
                "-in",
                request,
                "-CA",
                self.certificate,
                "-CAkey",
                self.key,
                "-days",
                VALID_DAYS,
            ),
            *(
                "-set_serial",
                f"0x{secrets.token_hex(16)}",
                "-extfile",
                extensions,
                "-out",
                issued.certificate,
            ),
        )
        return issued


def build_extensions(addresses: Sequence[str], dns_names: Sequence[str]) -> str:
    """Write the X.509 extensions of a certificate that serves under these names and is also good for clients."""
    lines = ["keyUsage=critical,digitalSignature", "extendedKeyUsage=serverAuth,clientAuth"]
    names = [f"IP:{address}" for address in addresses] + [f"DNS:{name}" for name in dns_names]
    if names:
        lines.append(f"subjectAltName={','.join(names)}")
    return "\n".join(lines) + "\n"


def ensure_service_account_key(folder: Path) -> Certificate:
    """Return the key pair that signs ServiceAccount tokens; its public half stands where a certificate would."""
    pair = Certificate(folder / "service-accounts.pub", folder / "service-accounts.key")
    if not pair.certificate.exists():
        _openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", pair.key)
        _openssl("pkey", "-in", pair.key, "-pubout", "-out", pair.certificate)
        pair.key.chmod(0o600)
    return pair


def _openssl(*arguments: str | Path) -> None:
    try:
        result = subprocess.run(
            ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise DevClusterError("the openssl program is missing; install the package `openssl`") from None
    if result.returncode != 0:
        raise DevClusterError(f"openssl {arguments[0]} failed: {result.stderr.strip()[-500:]}")
