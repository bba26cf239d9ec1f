from d2lcls.data import Batches
from d2lcls.training import evaluate
from d2lcls.training.evaluation import six_views

import numpy as np


def test_six_views_are_the_image_shifted_and_mirrored():
    x = np.arange(2 * 1 * 4 * 5, dtype=np.float32).reshape(2, 1, 4, 5)
    weights, views = zip(*six_views(x))
    assert sum(weights) == 1 and all(view.shape == x.shape for view in views)
    np.testing.assert_array_equal(views[0], x)
    np.testing.assert_array_equal(views[1], x[..., ::-1])
    np.testing.assert_array_equal(views[2][..., 1:, 1:], x[..., :-1, :-1])  # moved right and down
    np.testing.assert_array_equal(views[4][..., :-1, :-1], x[..., 1:, 1:])
    np.testing.assert_array_equal(views[3], views[2][..., ::-1])


def test_an_evaluation_with_views_averages_their_logits(shapes):
    def net(x):  # sees only the left half, of which mirrored views show it the other
        return x[:, :, :, : x.shape[3] // 2].mean(axis=(2, 3))

    class Net:
        def __call__(self, x):
            return net(x)

        def collect_params(self):
            return {}

    import mxnet as mx

    batches = Batches(shapes, 32)
    both = evaluate(Net(), batches, ctx=mx.cpu(), views=lambda x: [(0.5, x), (0.5, x[..., ::-1])])
    whole = evaluate(Whole(), batches, ctx=mx.cpu())
    assert abs(both.loss - whole.loss) < 1e-4


class Whole:
    def __call__(self, x):
        return x.mean(axis=(2, 3))
