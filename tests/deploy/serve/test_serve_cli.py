"""The command: its options, its messages, and how it ends."""

import socket
import subprocess
import sys

import pytest

pytest.importorskip("httptools")
pytest.importorskip("uvloop")
pytest.importorskip("multipart")

from d2lcls import cli

from serving import Serving, png, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "small")


def call(capfd, *arguments):
    """Run the command in this process; return exit code and errors."""
    try:
        code = cli.main(["serve", *map(str, arguments)])
    except SystemExit as stop:  # argparse's way out
        code = stop.code
    return code, capfd.readouterr().err


def test_command_serves_until_it_is_told_to_stop(model, tmp_path):
    serving = Serving(model, tmp_path / "log", "--access-log", "--log", "info")
    status, content = serving.predict(png())
    probabilities = [entry["probability"] for entry in content["predictions"][0]]
    assert status == 200 and sum(probabilities) == pytest.approx(1, abs=1e-4)
    assert serving.stop() == 0
    assert [event["event"] for event in serving.lines()] == ["serving", "request", "stopping", "stopped"]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--port", "x"], "whole number"),
        (["--port", "70000"], "65535"),
        (["--batch-size", "0"], "above 0"),
        (["--seconds", "nan"], "above 0"),
        (["--batch-wait", "-1"], "batch_wait must be"),
        (["--waiting", "8"], "Raise waiting"),
        (["--engines", "0"], "above 0"),
        (["--log", "loud"], "invalid choice"),
        (["--body", "1e9"], "invalid int"),
    ],
)
def test_wrong_options(model, capfd, options, message):
    code, errors = call(capfd, model, *options)
    assert code == 2 and message in errors, errors


def test_no_model_named(capfd):
    assert call(capfd)[0] == 2


def test_what_cannot_be_served(model, tmp_path, capfd):
    (tmp_path / "token").write_text("two words")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for arguments, message in (
            ([tmp_path], "manifest.json"),
            ([model, "--token-file", tmp_path / "token"], "must hold a token"),
            ([model, "--port", taken.getsockname()[1]], "cannot listen at"),
            ([model, "--port", 0, "--host", "no.such.host.invalid"], "no.such.host.invalid"),
            ([model, "--port", 0, "--load", 0.01], "Allow it more time: --load"),
        ):
            code, errors = call(capfd, *arguments)
            last = errors.splitlines()[-1]
            assert code == 1 and last.startswith("d2lcls: ") and message in last, errors


def test_token_from_a_file(model, tmp_path):
    (tmp_path / "token").write_text("secret-of-the-file\n")
    serving = Serving(model, tmp_path / "log", "--token-file", tmp_path / "token")
    assert serving.predict(png())[0] == 401
    assert serving.predict(png(), Authorization="Bearer secret-of-the-file")[0] == 200
    assert serving.stop() == 0 and "secret" not in serving.log.read_text()


def test_help_names_every_limit():
    from dataclasses import fields

    from d2lcls.deploy.serve import Limits

    printed = subprocess.run(
        [sys.executable, "-m", "d2lcls", "serve", "--help"], capture_output=True, text=True, check=True
    )
    without_option = {"held", "header", "connections", "idle"}
    text = " ".join(printed.stdout.split())
    for limit in fields(Limits):
        has_option = f"--{limit.name.replace('_', '-')} N {limit.metadata['help']} (default: {limit.default})" in text
        assert has_option == (limit.name not in without_option), limit.name


def test_of_several_forms_one_is_chosen_and_served(tmp_path):
    for form in ("one", "two"):
        write_model(tmp_path / "forms" / form)
    serving = Serving(tmp_path / "forms", tmp_path / "log", "--form", "mxnet")
    assert serving.predict(png())[0] == 200 and serving.stop() == 0
    event = next(line for line in serving.lines() if line["event"] == "form chosen")
    assert event["form"] == "mxnet" and set(event["ms"]) == {"one", "two"}


def test_a_form_that_is_not_there_is_named(model, capfd):
    code, err = call(capfd, model, "--port", 0, "--form", "onnx")
    assert code == 1 and "onnx" in err
