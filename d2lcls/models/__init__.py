"""Networks: the book's own, GluonCV's by name, and what they are made of."""

from d2lcls.models.cnn import GlobalMean, SmallCNN
from d2lcls.models.summary import Layer, Summary, summarize
from d2lcls.models.zoo import get_model, list_models

__all__ = ["GlobalMean", "Layer", "SmallCNN", "Summary", "get_model", "list_models", "summarize"]
