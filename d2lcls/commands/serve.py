"""`d2lcls serve`: a model behind HTTP."""

import argparse
import os
from dataclasses import fields
from pathlib import Path

from d2lcls.commands.parsers import positive, whole

# The options that set `Limits`: name, the kind of number, what it says.
_LIMITS = {
    "batch_size": (int, "pictures computed at once"),
    "batch_wait": (float, "seconds that a picture waits for others to share its batch"),
    "waiting": (int, "pictures accepted and not yet answered; more get 503"),
    "seconds": (float, "time limit of a request, then 504"),
    "pictures": (int, "pictures in one request"),
    "pixels": (int, "pixels of one picture"),
    "body": (int, "bytes of one request"),
    "receive": (float, "seconds for a request to arrive"),
    "grace": (float, "seconds for accepted requests when the service is stopped"),
    "load": (float, "seconds for the model to be loaded and tried"),
}


def add(command):
    """Add the command to the parser."""
    from d2lcls.deploy.serve.limits import Limits

    serve = command(
        "serve",
        _serve,
        "Answer requests for predictions over HTTP.",
        "d2lcls serve models/cnn-int8 (then: curl --data-binary @cat.png localhost:8080/v1/predict)",
    )
    serve.add_argument("model", metavar="MODEL", help="a model folder, as `d2lcls export` writes it")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 is all of this machine's")
    serve.add_argument("--port", type=_port, default=8080, help="0 takes a free one")
    serve.add_argument(
        "--token-file",
        metavar="FILE",
        type=Path,
        help="file with the token that clients must send (or the variable D2LCLS_TOKEN)",
    )
    serve.add_argument(
        "--engines", type=positive(int), metavar="N", help="processes that compute (default: one a core)"
    )
    serve.add_argument(
        "--threads",
        type=positive(int),
        default=1,
        metavar="N",
        help="of each of them; several share a batch, and wait for each other where cores are busy",
    )
    defaults = {entry.name: entry.default for entry in fields(Limits)}
    for name, (kind, text) in _LIMITS.items():
        kind = float if name == "batch_wait" else positive(kind)
        serve.add_argument("--" + name.replace("_", "-"), type=kind, default=defaults[name], metavar="N", help=text)
    serve.add_argument("--log", choices=["debug", "info", "warning", "error"], default="info", help="least level")
    serve.add_argument("--access-log", action="store_true", help="a line for every request")


def _serve(options):
    from d2lcls.deploy.serve import Limits, serve
    from d2lcls.deploy.serve.logs import only_events
    from d2lcls.machine.cores import usable_cores

    try:
        limits = Limits(**{name: getattr(options, name) for name in _LIMITS})
    except ValueError as error:
        options.wrong(str(error))
    token = _token(options.token_file)
    with only_events(options.log) as log:
        serve(
            options.model,
            log=log,
            limits=limits,
            host=options.host,
            port=options.port,
            token=token,
            engines=options.engines or usable_cores(),
            threads=options.threads,
            access=options.access_log,
        )


def _port(text):
    port = whole(text)
    if port > 65535:
        raise argparse.ArgumentTypeError(f"must be from 0 to 65535, not {text}")
    return port


def _token(path):
    token = path.read_text().strip() if path else os.environ.get("D2LCLS_TOKEN", "")
    if path and not token or not token.isascii() or any(letter.isspace() for letter in token):
        raise ValueError(
            f"{path or 'D2LCLS_TOKEN'}: must hold a token, ASCII without spaces. Make one with: openssl rand -hex 32"
        )
    return token or None
