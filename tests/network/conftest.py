"""A stand-in Hub, the real client pointed at it, a cache of its own."""

import pytest
from network.hub_server import Hub, served


@pytest.fixture
def client(monkeypatch, tmp_path):
    """The real client without the tests' HF_HUB_OFFLINE, with an empty cache; a function that names the Hub's address."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    cache = tmp_path / "hub"
    for name in ("HF_HUB_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    close_session()

    def at(address):
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
        return cache

    yield at
    close_session()


@pytest.fixture
def hub(client):
    """The stand-in, served, with the client pointed at it; it holds nothing yet. `hub.cache`: the client's cache."""
    hub = Hub({})
    with served(hub) as address:
        hub.cache, hub.address = client(address), address
        yield hub
