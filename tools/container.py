"""Builds the Dockerfile without Docker, in a folder that becomes a root file system, and tests the result.

Needs root, Debian or Ubuntu, and debootstrap, which installs the base image's Debian; for another processor also
qemu-user-static and binfmt-support (`update-binfmts --enable qemu-aarch64`):

    python3 tools/container.py FOLDER
    python3 tools/container.py --arch arm64 FOLDER

Prints a line for each step: the seconds, and whether it works or with which message it refuses.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import platform
import re
import shlex
import shutil
import signal
import string
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath

ROOT = Path(__file__).resolve().parent.parent
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}

# Three classes of the sample that comes with the package.
PHOTOS = """
import pathlib
from PIL import Image
from d2lcls.data.download.sample import read_sample
for split, count in (("train", 24), ("test", 8)):
    images, labels = read_sample(split)
    for index in range(10 * count):
        folder = pathlib.Path("try/photos", split, ("shirt", "trouser", "pullover")[labels[index] % 3])
        if labels[index] < 3:
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[index, :, :, 0]).save(folder / f"{index}.png")
"""
VERSIONS = """
import json, platform
import d2lcls, mxnet, numpy
features = mxnet.runtime.Features()
print(json.dumps({"python": platform.python_version(), "mxnet": mxnet.__version__, "numpy": numpy.__version__,
                  "mxnet_features": sorted(name for name in features if features.is_enabled(name))}))
"""
TRAIN = ["train", "--dataset", "try/photos", "--size", "28", "--epochs", "1", "--batch-size", "16"]
IMAGE = "try/photos/test/trouser/1.png"
# name, arguments of the container, and whether it may refuse with one line
COMMANDS = [
    ("versions", ["python", "-W", "ignore", "-c", VERSIONS], False),
    ("doctor", ["doctor"], False),
    ("photos", ["python", "-c", PHOTOS], False),
    ("train", [*TRAIN, "--out", "try/run"], False),
    ("evaluate", ["evaluate", "try/run"], False),
    ("predict --run", ["predict", "--run", "try/run", IMAGE], False),
    ("train, bfloat16", [*TRAIN, "--precision", "bfloat16", "--out", "try/bfloat16"], True),
    ("export", ["export", "try/run", "--out", "try/cnn"], False),
    ("predict", ["predict", "--model", "try/cnn", IMAGE], False),
    ("onnx", ["onnx", "try/cnn", "--out", "try/onnx"], False),
    ("predict, onnx", ["predict", "--model", "try/onnx", IMAGE], False),
    ("quantize", ["quantize", "try/cnn", "--images", "48", "--out", "try/int8"], True),
    ("quantize, onnx", ["quantize", "try/onnx", "--images", "48", "--out", "try/onnx-int8"], False),
    ("predict, onnx int8", ["predict", "--model", "try/onnx-int8", IMAGE], False),
    ("compile", ["compile", "try/onnx", "--out", "try/tvm"], True),
]


class Container:
    """A container built from a Dockerfile: the folder of its root, and how its programs are run."""

    def __init__(self, root: Path) -> None:
        self.root, self.user, self.folder = root, "root", "/"
        self.entrypoint: list[str] = []
        self.environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

    def command(self, arguments: Sequence[str | Path], extra: Iterable[tuple[str, str]] = ()) -> list[str | Path]:
        """Return the command line that runs a program in the container as its user, in its working folder."""
        account = next(
            line.split(":")
            for line in (self.root / "etc/passwd").read_text().splitlines()
            if line.startswith(f"{self.user}:")
        )
        variables = {"HOME": account[5], "LANG": "C.UTF-8", **self.environment, **dict(extra)}
        return [
            "chroot",
            f"--userspec={account[2]}:{account[3]}",
            self.root,
            "env",
            "-i",
            f"--chdir={self.folder}",
            *(f"{name}={value}" for name, value in variables.items()),
            *arguments,
        ]


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the (name, argument) pairs of a Dockerfile."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")).replace("\\\n", "")
    pairs = (line.split(maxsplit=1) for line in lines.splitlines() if line.strip())
    return [(name, argument) for name, argument in pairs]


def left_out(path: PurePath, patterns: Iterable[str]) -> bool:
    """Whether .dockerignore's patterns exclude a relative path, or a folder above it, from the image."""
    return any(
        fnmatch.fnmatch(part.name if pattern.startswith("**/") else str(part), pattern.removeprefix("**/"))
        for part in (path, *path.parents)
        for pattern in patterns
    )


def copy(container: Container, argument: str) -> None:
    """Execute COPY in the only form that the Dockerfile has: the whole folder, with a new owner."""
    [(owner, source, name)] = re.findall(r"^--chown=(\w+):\w+ (\S+) (\S+)$", argument)
    patterns = (ROOT / ".dockerignore").read_text().split()
    target = container.root / container.folder.lstrip("/") / name
    for path in sorted((ROOT / source).rglob("*")):
        relative = path.relative_to(ROOT)
        if not left_out(relative, patterns):
            if path.is_dir():
                (target / relative).mkdir(exist_ok=True)
            else:
                shutil.copy2(path, target / relative, follow_symlinks=False)
    subprocess.run(["chroot", container.root, "chown", "-R", f"{owner}:{owner}", container.folder], check=True)


def build(container: Container, steps: Steps, extra: list[tuple[str, str]], run: bool) -> None:
    """Execute the Dockerfile's instructions, from the second on; without RUN if an earlier run did that."""
    for name, argument in instructions((ROOT / "Dockerfile").read_text())[1:]:
        if name == "RUN":
            if run:
                steps.run(f"RUN {argument[:20]}...", container.command(["/bin/sh", "-c", argument], extra))
                if steps.failed():
                    sys.exit(1)
        elif name == "USER":
            container.user = argument
        elif name == "WORKDIR":  # belongs to root if it is created here
            container.folder = argument
            (container.root / argument.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif name == "ENV":
            for pair in shlex.split(argument):
                variable, value = pair.split("=", 1)
                container.environment[variable] = string.Template(value).substitute(container.environment)
        elif name == "COPY":
            copy(container, argument)
        elif name == "ENTRYPOINT":
            container.entrypoint = json.loads(argument)
        elif name != "EXPOSE":
            sys.exit(f"Dockerfile: tools/container.py does not support the instruction {name}.")


class Steps:
    """Runs steps, prints a line for each, and keeps the records."""

    def __init__(self) -> None:
        self.records: list[dict[str, str | float]] = []

    def run(self, name: str, command: Sequence[str | Path], may_refuse: bool = False) -> str:
        """Run a command and return its output."""
        begun = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or [""]
        if done.returncode == 0:
            outcome = "works"
        elif may_refuse and lines[-1].startswith("d2lcls: ") and "Traceback" not in done.stderr:
            outcome = f"refuses: {lines[-1]}"
        else:
            outcome = f"FAILS with {done.returncode}: {lines[-1]}"
        self.add(name, begun, outcome)
        if outcome.startswith("FAILS"):
            print(*lines[-30:], sep="\n", flush=True)
        return done.stdout

    def add(self, name: str, begun: float, outcome: str) -> None:
        """Print a step's line and keep its record."""
        self.records.append({"step": name, "seconds": round(time.perf_counter() - begun, 1), "outcome": outcome})
        print(f"{name:20} {self.records[-1]['seconds']:8.1f} s  {outcome}", flush=True)

    def failed(self) -> bool:
        """Whether a step failed."""
        return any(str(record["outcome"]).startswith("FAILS") for record in self.records)

    def serve(
        self, name: str, command: Sequence[str | Path], pattern: str, check: Callable[[re.Match[str]], str]
    ) -> None:
        """Start a server, wait until its output matches `pattern`, and record the outcome of `check`."""
        begun = time.perf_counter()
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        lines = []
        try:
            assert server.stdout
            for line in server.stdout:
                lines.append(line)
                if match := re.search(pattern, line):
                    self.add(name, begun, check(match))
                    return
            self.add(name, begun, f"FAILS: {''.join(lines[-10:])}")
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(300)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)


def open_address(request: str | urllib.request.Request, seconds: float = 600) -> tuple[int, str]:
    """Return the status and text of the response; retries while the server does not listen yet."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError) or time.monotonic() > end:
                return 0, str(error)
            time.sleep(0.5)


def check_jupyter(address: str, token: str) -> str:
    """Return the outcome: JupyterLab answers requests with its token and refuses those without."""
    inside, outside = open_address(f"{address}/lab?token={token}"), open_address(f"{address}/api/contents")
    if inside[0] == 200 and "JupyterLab" in inside[1] and outside[0] == 403:
        return "works"
    return f"FAILS: with the token {inside[0]} {inside[1][:100]}, without it {outside[0]}"


def check_service(port: str, picture: bytes) -> str:
    """Return the outcome: the service classifies a picture correctly."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/predict", picture, {"Content-Type": "image/png"})
    status, reply = open_address(request)
    return "works" if status == 200 and "trouser" in reply else f"FAILS: {status} {reply}"


def check(container: Container, steps: Steps) -> dict[str, str]:
    """Run the default command and the commands of the book, as the container's user; return their outputs."""
    start = container.entrypoint
    steps.serve(
        "JupyterLab",
        container.command(start),
        r"(http://127\.0\.0\.1:\d+)/lab\?token=(\w+)",
        lambda match: check_jupyter(match[1], match[2]),
    )
    printed = {
        name: steps.run(name, container.command([*start, *arguments]), may_refuse)
        for name, arguments, may_refuse in COMMANDS
    }
    picture = (container.root / container.folder.lstrip("/") / IMAGE).read_bytes()
    service = ["serve", "try/cnn", "--port", "0", "--load", "900", "--seconds", "300"]
    steps.serve(
        "serve",
        container.command([*start, *service]),
        r'"event": "serving".*"port": (\d+)',
        lambda match: check_service(match[1], picture),
    )
    return printed


def main() -> None:
    """Build, check, and exit with 1 if a step failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an empty folder, or one with Debian, from an earlier run")
    parser.add_argument("--arch", choices=MACHINES, default="amd64")
    parser.add_argument(
        "--file",
        action="append",
        default=[],
        metavar="SOURCE:TARGET",
        help="a file of this machine that the steps need, such as the certificate of a proxy",
    )
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="a variable for the RUN steps")
    parser.add_argument("--checks-only", action="store_true", help="copy the files again, without the RUN steps")
    parser.add_argument("--json", type=Path, help="write the steps there")
    options = parser.parse_args()
    steps, root = Steps(), options.folder.absolute()
    container = Container(root)
    base = instructions((ROOT / "Dockerfile").read_text())[0][1]
    if not (root / "bin").exists():
        steps.run(
            f"FROM {base}",
            [
                "debootstrap",
                "--variant=minbase",
                f"--arch={options.arch}",
                base.removeprefix("debian:").removesuffix("-slim"),
                root,
            ],
        )
    shutil.copy("/etc/resolv.conf", root / "etc")
    (root / ".dockerenv").touch()
    for pair in options.file:
        source, target = pair.split(":")
        (root / target.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, root / target.lstrip("/"))
    mounts = (
        ["-t", "proc", "proc", root / "proc"],
        ["-t", "sysfs", "sysfs", root / "sys"],
        ["--rbind", "--make-rslave", "/dev", root / "dev"],
    )
    for mount in mounts:
        subprocess.run(["mount", *mount], check=True)
    try:
        build(container, steps, [pair.partition("=")[::2] for pair in options.env], not options.checks_only)
        shutil.rmtree(root / container.folder.lstrip("/") / "try", ignore_errors=True)
        printed = check(container, steps)
    finally:
        for mount in mounts:
            subprocess.run(["umount", "--recursive", "--lazy", mount[-1]], check=True)
    print(printed["doctor"])
    if options.json:
        emulated = platform.machine() != MACHINES[options.arch]
        options.json.write_text(
            json.dumps(
                {
                    "arch": options.arch,
                    "emulated": emulated,
                    "base": base,
                    "versions": json.loads(printed["versions"] or "{}"),
                    "steps": steps.records,
                },
                indent=2,
            )
            + "\n"
        )
    sys.exit(steps.failed())


if __name__ == "__main__":
    main()
