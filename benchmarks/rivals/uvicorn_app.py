"""For benchmarks/serving.py: plain uvicorn; each process computes each image separately, as it arrives."""

import json
import os

from d2lcls.deploy import load_model

predictor = load_model(os.environ["MODEL"])


async def app(scope, receive, send):
    """Answer POST /predict with the classes of the picture in its body."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    answer = [{"class": name, "probability": share} for name, share in predictor.predict(body)]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})
