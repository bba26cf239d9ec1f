import sys

from d2lcls.explain import map_features

import numpy as np
import pytest

RNG = np.random.default_rng(0)
GROUPS = np.arange(90) % 3
FEATURES = (RNG.normal(size=(90, 60)) + 8 * RNG.normal(size=(3, 60))[GROUPS]).astype(np.float32)


def nearest_share(points):
    """Share of points whose nearest other is of the same group."""
    distances = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    return (GROUPS[distances.argmin(axis=1)] == GROUPS).mean()


def test_pca_finds_the_directions_of_greatest_variance():
    points = map_features(FEATURES)
    assert points.shape == (90, 2) and points.dtype == np.float32
    values, vectors = np.linalg.eigh(np.cov(FEATURES.T.astype(np.float64)))
    np.testing.assert_allclose(points.var(axis=0, ddof=1), values[:-3:-1], rtol=1e-4)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-4)
    for axis in range(2):
        direction = vectors[:, -1 - axis]
        direction = direction * np.sign(direction[np.abs(direction).argmax()])
        np.testing.assert_allclose(points[:, axis], (FEATURES - FEATURES.mean(axis=0)) @ direction, atol=1e-3)


def test_the_sign_does_not_depend_on_the_order():
    np.testing.assert_allclose(map_features(FEATURES[::-1])[::-1], map_features(FEATURES), atol=1e-3)


def test_points_in_a_plane_keep_their_distances():
    plane = RNG.normal(size=(20, 2))
    turn = np.linalg.qr(RNG.normal(size=(7, 7)))[0][:2]
    points = map_features(plane @ turn + 3)
    for i in range(20):
        np.testing.assert_allclose(
            np.linalg.norm(points - points[i], axis=1), np.linalg.norm(plane - plane[i], axis=1), atol=1e-5
        )


def test_equal_features_are_one_point():
    assert (map_features(np.ones((4, 3))) == 0).all()


def test_tsne_keeps_groups_together_and_its_seed():
    pytest.importorskip("sklearn")
    points = map_features(FEATURES, "tsne", seed=3)
    assert points.shape == (90, 2) and points.dtype == np.float32 and np.isfinite(points).all()
    assert nearest_share(points) == 1
    np.testing.assert_array_equal(map_features(FEATURES, "tsne", seed=3), points)


@pytest.mark.parametrize("n, d", [(4, 2), (7, 80)])
def test_tsne_of_few(n, d):
    pytest.importorskip("sklearn")
    assert np.isfinite(map_features(RNG.normal(size=(n, d)), "tsne")).all()


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    for module in ("sklearn", "sklearn.manifold"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r't-SNE needs scikit-learn: pip install "d2lcls\[tune\]"'):
        map_features(FEATURES, "tsne")
    map_features(FEATURES, "pca")


@pytest.mark.parametrize(
    "features, method, message",
    [
        (FEATURES, "umap", "method must be 'pca' or 'tsne', not 'umap'"),
        (FEATURES[0], "pca", r"\(N, D\) with N of at least 2 and D of at least 2, not \(60,\)"),
        (FEATURES[:1], "pca", "N of at least 2"),
        (FEATURES[:, :1], "pca", "D of at least 2"),
        (FEATURES[:3], "tsne", "N of at least 4"),
        (np.full((5, 3), np.nan), "pca", "finite"),
    ],
)
def test_what_does_not_fit_is_named(features, method, message):
    with pytest.raises(ValueError, match=message):
        map_features(features, method)
