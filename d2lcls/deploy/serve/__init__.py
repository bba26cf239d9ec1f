"""An HTTP service for a model folder: batches, limits, reloads, and a stop that answers what was accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from d2lcls.deploy.serve.limits import Limits

__all__ = ["Limits", "serve"]


def serve(folder: str | Path, **options: Any) -> None:
    """Serve a model folder; see `d2lcls.deploy.serve.server.run` for the options.

    Raises:
        ImportError: a package that the service needs is not installed; the message names the extra.
    """
    try:
        from d2lcls.deploy.serve import server
    except ImportError as error:
        if error.name and error.name.partition(".")[0] in ("httptools", "uvloop", "prometheus_client", "multipart"):
            raise ImportError(f'The service needs {error.name}: pip install "d2lcls[serve]"') from error
        raise
    server.run(folder, **options)
