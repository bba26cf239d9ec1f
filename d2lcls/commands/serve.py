"""`d2lcls serve`: a model behind HTTP."""

from __future__ import annotations

import argparse
import os
from dataclasses import Field, fields
from pathlib import Path

from d2lcls.commands.parsers import Command, positive, whole


def add(command: Command) -> None:
    """Add the command to the parser."""
    from d2lcls.deploy.serve.logs import LEVELS

    serve = command(
        "serve",
        _serve,
        "Answer requests for predictions over HTTP.",
        "d2lcls serve models/cnn-int8 (then: curl --data-binary @cat.png localhost:8080/v1/predict)",
    )
    serve.add_argument(
        "model",
        metavar="MODEL",
        help="a model folder, as `d2lcls export` writes it, or a folder with forms of one model",
    )
    serve.add_argument(
        "--form",
        default="auto",
        help="which form in MODEL to serve: auto times them, one picture at a time; or as for predict",
    )
    serve.add_argument("--trust", action="store_true", help="also load machine code (tvm), from a source you trust")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 is all of this machine's")
    serve.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name that requests may have in their header Host, for a service at a loopback address, "
        "which otherwise answers to localhost only; may be repeated",
    )
    serve.add_argument("--port", type=_port, default=8080, help="port to listen at; 0 chooses a free one")
    serve.add_argument(
        "--token-file",
        metavar="FILE",
        type=Path,
        help="file with the token that clients must send (or the variable D2LCLS_TOKEN)",
    )
    serve.add_argument(
        "--engines", type=positive(int), metavar="N", help="number of worker processes (default: one per core)"
    )
    serve.add_argument(
        "--threads",
        type=positive(int),
        default=1,
        metavar="N",
        help="threads of each worker; several share a batch, and wait for each other where cores are busy",
    )
    for limit in _limits():
        serve.add_argument(
            "--" + limit.name.replace("_", "-"),
            type=float
            if limit.name == "batch_wait"
            else positive(float if isinstance(limit.default, float) else int),  # which may be 0
            default=limit.default,
            metavar="N",
            help=limit.metadata["help"],
        )
    serve.add_argument("--log", choices=LEVELS, default="info", help="lowest level that is logged")
    serve.add_argument("--access-log", action="store_true", help="log every request")


def _limits() -> list[Field]:
    from d2lcls.deploy.serve.limits import Limits

    return [limit for limit in fields(Limits) if limit.metadata["option"]]


def _serve(options: argparse.Namespace) -> None:
    from d2lcls.deploy.forms import fastest_form
    from d2lcls.deploy.serve import Limits, serve
    from d2lcls.deploy.serve.logs import json_log, log
    from d2lcls.machine.cores import usable_cores

    try:
        limits = Limits(**{limit.name: getattr(options, limit.name) for limit in _limits()})
    except ValueError as error:
        options.wrong(str(error))
    token = _token(options.token_file)
    with json_log(options.log):
        choice = fastest_form(options.model, options.form, options.threads, options.trust)
        if choice.ms or choice.left_out:
            log.info("form chosen", {"form": choice.form, "ms": choice.ms, "left_out": choice.left_out})
        serve(
            choice.folder,
            limits=limits,
            host=options.host,
            port=options.port,
            token=token,
            engines=options.engines or usable_cores(),
            threads=options.threads,
            trust=options.trust,
            log_requests=options.access_log,
            allow_hosts=options.allow_host,
        )


def _port(text: str) -> int:
    port = whole(text)
    if port > 65535:
        raise argparse.ArgumentTypeError(f"must be from 0 to 65535, not {text}")
    return port


def _token(path: Path | None) -> str | None:
    variable = os.environ.pop("D2LCLS_TOKEN", "")  # not for the workers and decoders
    token = path.read_text().strip() if path else variable
    if path and not token or not token.isascii() or any(letter.isspace() for letter in token):
        raise ValueError(
            f"{path or 'D2LCLS_TOKEN'}: must hold a token, ASCII without spaces. Make one with: openssl rand -hex 32"
        )
    return token or None
