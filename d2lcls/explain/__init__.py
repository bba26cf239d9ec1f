"""Looking into a network's answers."""

from d2lcls.explain.confusion import confusion_matrix, most_confused

__all__ = ["confusion_matrix", "most_confused"]
