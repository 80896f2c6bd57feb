"""kopf logs in as the rest of the operator does: same server, same credentials, read anew when they expire."""

from __future__ import annotations

import kopf

from finetune_operator.cluster import Connection


def connection_info(connection: Connection) -> kopf.ConnectionInfo:
    """Translate our connection into kopf's."""
    scheme, _, token = (connection.authorization or "").partition(" ")
    return kopf.ConnectionInfo(
        server=connection.server,
        ca_path=connection.ca_path,
        insecure=not connection.verify_tls,
        certificate_path=connection.certificate_path,
        private_key_path=connection.private_key_path,
        scheme=scheme.capitalize() or None,
        token=token.strip() or None,
    )
