"""For benchmarks/serving.py: plain uvicorn, each process computing one picture at a time."""

import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

from d2lcls.deploy import load_model

predictor = load_model(os.environ["MODEL"])


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Answer POST /predict with the classes of the picture in its body."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    classes = [{"class": name, "probability": probability} for name, probability in predictor.predict(body)]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(classes).encode()})
