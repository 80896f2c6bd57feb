"""How the hubs are reached: addresses, certificates and proxies, as the environment says; never a metadata address.

Hub names and redirects come from users and from servers. A pod stands inside the cluster's network, where link-local
addresses serve a node's credentials, so every address is looked at before a request is sent to it.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import urllib.request
from collections.abc import Mapping
from urllib.parse import urlsplit

from finetune_trainer.errors import UserError
from finetune_trainer.hubs.address import Hub
from finetune_trainer.storage.locations import metadata_address_of

CONNECT_TIMEOUT_SECONDS = 10.0
READ_TIMEOUT_SECONDS = 60.0
_DEFAULT_ENDPOINTS = {Hub.HUGGING_FACE: "https://huggingface.co", Hub.MODEL_SCOPE: "https://modelscope.cn"}
# The first that is set counts. MODELSCOPE_DOMAIN is a host without a scheme.
_ENDPOINT_VARIABLES = {
    Hub.HUGGING_FACE: ("HF_ENDPOINT",),
    Hub.MODEL_SCOPE: ("MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN"),
}
_CA_BUNDLE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
# httpx2 writes every URL it asks for, and a content server's URLs carry the right to read.
_TALKATIVE = ("httpx2", "httpcore2", "huggingface_hub", "modelscope_hub")


def endpoint_of(hub: Hub, environment: Mapping[str, str] = os.environ) -> str:
    """The hub's address, without a trailing slash. Raises UserError for one that is no hub's."""
    default = _DEFAULT_ENDPOINTS[hub]
    for variable in _ENDPOINT_VARIABLES[hub]:
        if value := environment.get(variable, "").strip():
            endpoint = (value if "://" in value else f"https://{value}").rstrip("/")
            _require_plain(endpoint, variable)
            refuse_metadata_address(endpoint, f"{variable} {endpoint}")
            return endpoint
    return default


def ca_bundle(environment: Mapping[str, str] = os.environ) -> str | None:
    """The file of the authorities to trust besides none; None for the image's own."""
    for variable in _CA_BUNDLE_VARIABLES:
        if path := environment.get(variable):
            if not os.path.exists(path):  # noqa: PTH110 (may be a folder, as the libraries allow)
                raise UserError(
                    f"{variable} names {path}, which is not there. Mount the certificates there, or unset it."
                )
            return path
    return None


def refuse_metadata_proxies() -> None:
    """Raise UserError for a proxy of the environment at an address that serves a node's credentials."""
    for scheme, proxy in urllib.request.getproxies().items():
        if scheme != "no":
            refuse_metadata_address(
                proxy if "://" in proxy else f"http://{proxy}", f"the proxy {_host(proxy)}"
            )


def refuse_metadata_address(url: str, what: str) -> None:
    """Raise UserError if a request to `url` would go to an address that serves a node's credentials."""
    parts = urlsplit(url)
    if _goes_through_a_proxy(parts.scheme, parts.hostname or "") and not _is_address(parts.hostname or ""):
        return  # The name is looked up by the proxy, not here.
    if (address := metadata_address_of(url)) is not None:
        raise UserError(
            f"{what} leads to {address}, a link-local or metadata address, which is never a hub. Nothing was sent "
            "there; use the hub's own address."
        )


def quiet_libraries() -> None:
    """Keep the libraries' own lines out of the log: they hold signed URLs. What matters we log ourselves."""
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _require_plain(endpoint: str, variable: str) -> None:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise UserError(
            f"{variable} is no hub's address. Set it to a URL of scheme and host, such as "
            "https://hf-mirror.example.com."
        )


def _goes_through_a_proxy(scheme: str, host: str) -> bool:
    proxies = urllib.request.getproxies()
    return bool(proxies.get(scheme) or proxies.get("all")) and not urllib.request.proxy_bypass(host)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    return True


def _host(url: str) -> str:
    # A proxy's URL may hold a password.
    return urlsplit(url if "://" in url else f"http://{url}").hostname or "of the environment"
