"""For benchmarks/serving.py: LitServe with batches of 32 and two milliseconds to collect them, as d2lcls has."""

import os
from typing import Annotated, Any

from d2lcls.deploy import load_model

import litserve
from fastapi import Body


class Classifier(litserve.LitAPI):
    """Classes of the picture in a request's body."""

    def setup(self, device: Any) -> None:
        """Load the model into a worker."""
        self.predictor = load_model(os.environ["MODEL"])

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/png")]) -> bytes:
        """Return the body."""
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """Keep the pictures as they are."""
        return inputs

    def predict(self, pictures: list[bytes]) -> list[list[tuple[str, float]]]:
        """Compute a batch."""
        return self.predictor.predict_many(pictures)

    def unbatch(self, output: list[list[tuple[str, float]]]) -> list[list[tuple[str, float]]]:
        """Keep one result for each request."""
        return output

    def encode_response(self, output: list[tuple[str, float]]) -> list[dict[str, Any]]:
        """Return what becomes JSON."""
        return [{"class": name, "probability": probability} for name, probability in output]


if __name__ == "__main__":
    litserve.LitServer(
        Classifier(max_batch_size=32, batch_timeout=0.002),
        accelerator="cpu",
        workers_per_device=int(os.environ["CORES"]),
    ).run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False, log_level="warning")
