"""Where the hubs are, and where no request goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_trainer.errors import UserError
from finetune_trainer.hubs import Hub, network
from tests.stand_ins.hub_server import connect_directly


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of whoever runs the tests."""
    connect_directly(monkeypatch)


@pytest.mark.parametrize(
    ("hub", "environment", "expected"),
    [
        pytest.param(Hub.HUGGING_FACE, {}, "https://huggingface.co", id="Hugging Face's own"),
        pytest.param(Hub.MODEL_SCOPE, {}, "https://modelscope.cn", id="ModelScope's own"),
        pytest.param(Hub.HUGGING_FACE, {"HF_ENDPOINT": " "}, "https://huggingface.co", id="set to nothing"),
        pytest.param(
            Hub.HUGGING_FACE,
            {"HF_ENDPOINT": "http://127.0.0.1:8080/"},
            "http://127.0.0.1:8080",
            id="a mirror",
        ),
        pytest.param(
            Hub.HUGGING_FACE,
            {"HF_ENDPOINT": "https://127.0.0.1/hf/"},
            "https://127.0.0.1/hf",
            id="a mirror's path",
        ),
        pytest.param(Hub.MODEL_SCOPE, {"MODELSCOPE_DOMAIN": "127.0.0.1"}, "https://127.0.0.1", id="a domain"),
        pytest.param(
            Hub.MODEL_SCOPE,
            {"MODELSCOPE_ENDPOINT": "http://127.0.0.1:1", "MODELSCOPE_DOMAIN": "127.0.0.2"},
            "http://127.0.0.1:1",
            id="the newer name first",
        ),
        pytest.param(
            Hub.MODEL_SCOPE, {"HF_ENDPOINT": "http://127.0.0.1"}, "https://modelscope.cn", id="the other's"
        ),
    ],
)
def test_the_environment_says_where_a_hub_is(hub: Hub, environment: dict[str, str], expected: str) -> None:
    assert network.endpoint_of(hub, environment) == expected


@pytest.mark.parametrize(
    "value",
    [
        "ftp://127.0.0.1",
        "https://",
        "https://user:password@127.0.0.1",
        "https://127.0.0.1/?a=b",
        "file:///etc",
    ],
)
def test_what_is_no_hubs_address_is_refused(value: str) -> None:
    with pytest.raises(UserError, match="HF_ENDPOINT is no hub's address") as raised:
        network.endpoint_of(Hub.HUGGING_FACE, {"HF_ENDPOINT": value})
    assert "password" not in raised.value.message


@pytest.mark.parametrize("value", ["http://169.254.169.254", "http://[fe80::1]", "http://100.100.100.200:80"])
def test_an_address_that_serves_credentials_is_refused(value: str) -> None:
    with pytest.raises(UserError, match=r"HF_ENDPOINT .* leads to .*, a link-local or metadata address"):
        network.endpoint_of(Hub.HUGGING_FACE, {"HF_ENDPOINT": value})


@pytest.mark.parametrize("value", ["http://169.254.169.254:3128", "user:password@169.254.169.254:80"])
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "https_proxy"])
def test_a_proxy_that_serves_credentials_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(UserError, match=r"the proxy 169\.254\.169\.254 leads to") as raised:
        network.refuse_metadata_proxies()
    assert "password" not in raised.value.message


def test_names_behind_a_proxy_are_not_looked_up_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*arguments: object, **keywords: object) -> None:
        raise AssertionError("looked up")

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:3128")
    monkeypatch.setenv("NO_PROXY", "inside.invalid")

    network.refuse_metadata_address("http://hub.invalid/a", "A request")
    with pytest.raises(AssertionError, match="looked up"):
        network.refuse_metadata_address("http://inside.invalid/a", "A request")
    with pytest.raises(AssertionError, match="looked up"):
        network.refuse_metadata_address("https://hub.invalid/a", "A request")


def test_the_first_bundle_of_certificates_counts(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.crt"
    bundle.touch()

    assert network.ca_bundle({}) is None
    assert network.ca_bundle({"SSL_CERT_FILE": str(bundle), "REQUESTS_CA_BUNDLE": "/other"}) == str(bundle)
    assert network.ca_bundle({"REQUESTS_CA_BUNDLE": str(tmp_path)}) == str(tmp_path)
    with pytest.raises(UserError, match=r"REQUESTS_CA_BUNDLE names /nowhere\.crt, which is not there"):
        network.ca_bundle({"REQUESTS_CA_BUNDLE": "/nowhere.crt"})
