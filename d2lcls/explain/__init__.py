"""Looking into a network's answers."""

from d2lcls.explain.calibration import CalibrationCurve, calibration_curve, fit_temperature
from d2lcls.explain.confusion import confusion_matrix, most_confused
from d2lcls.explain.gradcam import grad_cam, overlay
from d2lcls.explain.maps import map_features
from d2lcls.explain.neighbours import nearest_neighbours
from d2lcls.explain.scores import balanced_accuracy, per_class_accuracy

__all__ = [
    "CalibrationCurve", "balanced_accuracy", "calibration_curve", "confusion_matrix", "fit_temperature", "grad_cam",
    "map_features", "most_confused", "nearest_neighbours", "overlay", "per_class_accuracy",
]
