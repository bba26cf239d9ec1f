from d2lcls.data.download import catalog

import pytest
from local_server import Server, dataset_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("D2LCLS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("D2LCLS_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def offer(monkeypatch):
    """Put a data set with these sources into the catalog, as "fake"."""

    def offer(*sources, **options):
        dataset = dataset_of(*sources, **options)
        monkeypatch.setitem(catalog.DATASETS, "fake", dataset)
        return dataset

    return offer
