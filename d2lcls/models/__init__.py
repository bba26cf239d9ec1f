"""Networks: the book's own, EfficientNets, GluonCV's by name; their weights, and what can be changed in them."""

from d2lcls.models.cnn import GlobalMean, SmallCNN
from d2lcls.models.efficientnet import EfficientNet
from d2lcls.models.features import FeatureBatches, Features, extract_features
from d2lcls.models.fusion import fuse, quantize
from d2lcls.models.plain import without_shortcuts
from d2lcls.models.slow_layers import drop_bounds, freeze_depthwise, replace_global_pooling
from d2lcls.models.summary import Layer, Summary, summarize
from d2lcls.models.surgery import (gradual, hold_statistics, layer_groups, replace_head, set_bias_multiplier,
                                   set_lr_multipliers, split, train_last)
from d2lcls.models.tensors import WeightsError, read_tensors
from d2lcls.models.weight_files import load_weights
from d2lcls.models.weights import WeightsUnavailable, preprocessing
from d2lcls.models.zoo import get_model, list_models

__all__ = [
    "EfficientNet", "FeatureBatches", "Features", "GlobalMean", "Layer", "SmallCNN", "Summary", "WeightsError",
    "WeightsUnavailable", "drop_bounds", "extract_features", "freeze_depthwise", "fuse", "get_model", "gradual",
    "hold_statistics", "layer_groups", "list_models", "load_weights", "preprocessing", "quantize",
    "read_tensors", "replace_global_pooling", "replace_head", "set_bias_multiplier", "set_lr_multipliers",
    "split", "summarize", "train_last", "without_shortcuts",
]
