"""`d2lcls compile`: machine code of a model, for this machine or for 64-bit Arm."""

import argparse
from pathlib import Path

from d2lcls.commands.parsers import Command, positive


def add(command: Command) -> None:
    """Add the command to the parser."""
    compile_ = command(
        "compile",
        _compile,
        "Compile a model with TVM, for 64-bit Arm or this machine (where ONNX Runtime is usually faster).",
        "d2lcls compile models/cnn-onnx --target arm64 --out models/cnn-arm64",
    )
    add = compile_.add_argument
    add("folder", metavar="ONNX_FOLDER", help="model folder of form onnx")
    add(
        "--target",
        choices=("arm64", "host"),
        default="host",
        help="arm64: one program for a phone or a Raspberry Pi; host: a library for this machine",
    )
    add("--out", required=True, metavar="DIR", help="a new folder for the compiled model")
    add("--batch", type=positive(int), default=1, metavar="N", help="pictures per batch (host only)")
    add("--tune", type=positive(float), metavar="SECONDS", help="time to try tiles for each loop (host only)")


def _compile(options: argparse.Namespace) -> None:
    if options.target == "arm64":
        if options.tune or options.batch != 1:
            options.wrong(
                "--tune and --batch go with --target host: tuning measures on the machine it runs on, and "
                "the program for Arm takes one picture at a time"
            )
        _compile_arm(options)
    else:
        _compile_host(options)


def _compile_host(options: argparse.Namespace) -> None:
    import statistics
    import time

    from d2lcls.deploy import load_model, read_manifest
    from d2lcls.deploy.edge.host import FILE, check_compiler, compile_host
    from d2lcls.deploy.edge.tuning import gain, tune
    from d2lcls.machine.files import check_new_folder

    check_new_folder(options.out)  # these three find what is wrong before minutes of tuning
    read_manifest(options.folder, forms=("onnx",))
    check_compiler()
    records = None
    if options.tune:
        records = tune(options.folder, options.tune, options.batch)
        ratios = gain(options.folder, records, options.batch)
        print(
            f"{records.trials} schedules tried; tuned, the model runs {statistics.median(ratios):.2f} times as fast "
            "as scheduled by rule"
        )
    manifest, difference = compile_host(options.folder, options.out, options.batch, records)
    needs = manifest.made_from or {}
    begun = time.perf_counter()
    load_model(options.out, trust=True)
    load_ms = 1000 * (time.perf_counter() - begun)
    print(f"{Path(options.out, FILE)}: {_megabytes(options.out, FILE)} for {needs['machine']}, batch {manifest.batch}")
    print(f"instruction sets it uses: {', '.join(needs['instructions']) or 'those of every such machine'}")
    print(f"loaded, checked and run once in {load_ms:.0f} ms; {_differ(difference)}")


def _compile_arm(options: argparse.Namespace) -> None:
    from d2lcls.deploy.edge.arm import EMULATOR, FILE, compile_arm, run_program

    import numpy as np

    manifest, difference = compile_arm(options.folder, options.out)
    crop = manifest.preprocess.crop
    print(f"{Path(options.out, FILE)}: {_megabytes(options.out, FILE)}, static, for 64-bit Arm, {crop} x {crop} pixels")
    if difference is None:
        print(f"not run: {EMULATOR} is not installed (Debian and Ubuntu: sudo apt install qemu-user)")
    else:
        answer = run_program(options.out, np.zeros(manifest.input_shape(), dtype=np.float32))
        print(f"run here, loaded in {answer.load_ms:.1f} ms; {_differ(difference)}")
    print("A picture is a PPM: magick photo.jpg -auto-orient picture.ppm")
    print(f"On a Raspberry Pi: scp {Path(options.out, FILE)} pi: && ssh pi ./{FILE} picture.ppm")
    print(
        f"On a phone: adb push {Path(options.out, FILE)} picture.ppm /data/local/tmp && "
        f"adb shell 'cd /data/local/tmp && chmod +x {FILE} && ./{FILE} picture.ppm'"
    )


def _differ(difference: float) -> str:
    return f"logits differ from ONNX Runtime's by {difference:.1g} of the largest"


def _megabytes(folder: str, name: str) -> str:
    return f"{Path(folder, name).stat().st_size / 1e6:.1f} MB"
