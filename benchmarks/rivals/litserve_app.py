"""For benchmarks/serving.py: LitServe with batches of 32, gathered for two milliseconds as in d2lcls."""

import os
from typing import Annotated

from d2lcls.deploy import load_model

import litserve
from fastapi import Body


class Classifier(litserve.LitAPI):
    """Classes of the picture in a request's body."""

    def setup(self, device):
        """Load the model into a worker."""
        self.predictor = load_model(os.environ["MODEL"])

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/png")]):
        """Take the body."""
        return request

    def batch(self, inputs):
        """Take the pictures as they are."""
        return inputs

    def predict(self, pictures):
        """Compute a batch."""
        return self.predictor.predict_many(pictures)

    def unbatch(self, output):
        """Give each request its part."""
        return output

    def encode_response(self, output):
        """Make JSON of it."""
        return [{"class": name, "probability": share} for name, share in output]


if __name__ == "__main__":
    litserve.LitServer(
        Classifier(max_batch_size=32, batch_timeout=0.002),
        accelerator="cpu",
        workers_per_device=int(os.environ["CORES"]),
    ).run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False, log_level="warning")
