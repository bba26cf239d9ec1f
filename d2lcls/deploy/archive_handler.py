"""The function that the MXNet Model Server calls; `write_archive` puts this file into the archive as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from d2lcls.deploy.predictor import Predictor

_predictor: Predictor | None = None


def handle(requests: list[dict[str, bytes]] | None, context: Any) -> list[Any] | None:
    """Load the model at the first call, and classify pictures at all later ones.

    Args:
        requests: None at first; then one dict per request, from a parameter's name to its bytes, which are a picture.
        context: the server's; its `system_properties` have the folder that the archive was unpacked to.

    Returns:
        For each request, its five likeliest classes as {"class", "probability"}, the likeliest first.
    """
    global _predictor
    from d2lcls.data.decode import BrokenImage
    from d2lcls.deploy.predictor import likeliest, open_model

    if _predictor is None:
        _predictor = open_model(context.system_properties["model_dir"], trust=True)
    if requests is None:
        return None
    classes, preprocess = _predictor.manifest.classes, _predictor.manifest.preprocess
    answers: list[Any] = [{"detail": "The body is no picture that can be read."}] * len(requests)
    images = {}
    for index, parameters in enumerate(requests):
        try:
            images[index] = preprocess.image(bytes(next(iter(parameters.values()), b"")))
        except BrokenImage:
            context.set_response_status(code=400, phrase="Broken picture", idx=index)
    if images:
        for index, logits in zip(images, _predictor.logits(list(images.values()))):
            answers[index] = [
                {"class": name, "probability": probability} for name, probability in likeliest(logits, classes)
            ]
    return answers
