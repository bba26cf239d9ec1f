"""What is sent back: JSON for predictions, RFC 9457 problem details for what went wrong."""

import json
from http import HTTPStatus


def problem(status, reason):
    """Return the body of an error."""
    return json.dumps({"status": status, "title": HTTPStatus(status).phrase, "detail": reason}).encode()


def as_json(content):
    """Return content as the bytes of JSON, which has no NaN."""
    return json.dumps(content, allow_nan=False).encode()


def predictions(name, labels, ranked, top):
    """Return the body that names what pictures show.

    Args:
        name: of the model, as JSON.
        labels: list of the classes' names, each as JSON.
        ranked: list of (order, probabilities) of the pictures.
        top: how many classes of each.
    """
    pictures = []
    for order, probabilities in ranked:
        classes = ", ".join(
            [
                f'{{"class": {labels[place]}, "probability": {probability:.6g}}}'
                for place, probability in zip(order[:top].tolist(), probabilities[:top].tolist())
            ]
        )
        pictures.append(f"[{classes}]")
    return f'{{"model": {name}, "predictions": [{", ".join(pictures)}]}}'.encode()
