"""A Hugging Face hub on this machine."""

import os

from d2lcls.weights import store

import pytest
from hub_server import HubServer


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine; no other source has anything, and all caches are empty."""
    constants = pytest.importorskip("huggingface_hub.constants")
    server = HubServer()
    for name, value in {
        "D2LCLS_HOME": tmp_path / "home",
        "D2LCLS_OFFLINE": "",
        "MXNET_HOME": tmp_path / "mxnet",
        "MXNET_GLUON_REPO": "http://127.0.0.1:9",
        "PIP_NO_INDEX": 1,
        "PIP_CONFIG_FILE": os.devnull,
        "HF_HOME": tmp_path / "hf",
        "HF_ENDPOINT": server.address,
        "no_proxy": "127.0.0.1,localhost",
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    # huggingface_hub has read its variables when it was imported; new processes, below, read them themselves.
    for name, value in {
        "ENDPOINT": server.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "hf" / "hub"),
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(store, "find_spec", lambda name: None)
    yield server
    server.close()
