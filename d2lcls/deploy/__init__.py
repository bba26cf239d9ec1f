"""From a trained network to a phone, a server and a browser; each step writes a model folder with a manifest."""

from d2lcls.deploy.manifest import Accuracy, Manifest, ModelError, read_manifest
from d2lcls.deploy.predictor import Predictor, load_model

__all__ = ["Accuracy", "Manifest", "ModelError", "Predictor", "load_model", "read_manifest"]
