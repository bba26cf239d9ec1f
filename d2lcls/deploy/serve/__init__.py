"""A service that stays up: a model folder behind HTTP, with batches, bounds, reloads and a stop that loses nothing."""

from d2lcls.deploy.serve.limits import Limits

__all__ = ["Limits", "serve"]


def serve(folder, **options):
    """Serve a model folder; see `d2lcls.deploy.serve.server.run` for the options.

    Raises:
        ImportError: what the service needs is not installed; names the extra.
    """
    try:
        from d2lcls.deploy.serve import server
    except ImportError as error:
        if error.name and error.name.partition(".")[0] in ("httptools", "uvloop", "prometheus_client", "multipart"):
            raise ImportError(f'The service needs {error.name}: pip install "d2lcls[serve]"') from error
        raise
    server.run(folder, **options)
