"""What the MXNet Model Server calls; `write_archive` puts this file into the archive as it is."""

_predictor = None


def handle(requests, context):
    """Load the model at the first call, and name what pictures show at all others.

    Args:
        requests: None at first; then a list of dicts from a parameter's name to its bytes, one of them a picture.
        context: the server's, which knows the folder that the archive was unpacked to.

    Returns:
        list with, for each request, its five likeliest classes as {"class", "probability"}, the likeliest first.
    """
    global _predictor
    from d2lcls.data.decode import BrokenImage
    from d2lcls.deploy.predictor import likeliest, load_model

    if _predictor is None:
        _predictor = load_model(context.system_properties["model_dir"])
    if requests is None:
        return None
    preprocess, images, answers = _predictor.manifest.preprocess, [], []
    for place, parameters in enumerate(requests):
        try:
            images.append(preprocess.image(bytes(next(iter(parameters.values()), b""))))
            answers.append(None)
        except BrokenImage:
            context.set_response_status(code=400, phrase="Broken picture", idx=place)
            answers.append({"detail": "The body is no picture that can be read."})
    if images:
        rows = iter(_predictor.logits(images))
        answers = [
            answer
            or [
                {"class": name, "probability": probability}
                for name, probability in likeliest(next(rows), _predictor.manifest.classes)
            ]
            for answer in answers
        ]
    return answers
