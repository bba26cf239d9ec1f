"""Coverage-guided fuzzing of one reader: `python tests/fuzz/fuzz.py KIND [SECONDS]`, with the package atheris.

Begins with the valid file and the seeds of this kind. Inputs that reach new code are kept in the folder `fuzz-KIND`.
An input that a reader neither opens nor refuses is written there too, and ends the run: copy it to `seeds/KIND/`, and
`test_readers.py` reads it in every run.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

try:
    import atheris
except ImportError:
    sys.exit("Fuzzing needs the package atheris, on Linux with x86-64. Install it with: pip install 'atheris>=3'")

with atheris.instrument_imports(include=["d2lcls", "zipfile", "pickletools", "tarfile"]):
    from readers import READERS, outcome
    from valid import write_valid

SEEDS = Path(__file__).with_name("seeds")


def main() -> None:
    """Fuzz until an input is found, or the time is up."""
    kind = sys.argv[1] if len(sys.argv) > 1 else ""
    seconds = sys.argv[2] if len(sys.argv) > 2 else "300"
    if kind not in READERS:
        sys.exit(f"KIND must be one of {', '.join(READERS)}, not {kind!r}.")
    found = Path(f"fuzz-{kind.replace(' ', '-')}")
    found.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = write_valid(Path(folder, "valid"))[kind]
        for seed in (path, *SEEDS.glob(f"{kind}/*")):
            shutil.copy(seed, found / f"seed-{seed.name}")

        def one(data: bytes) -> None:
            path.write_bytes(data)
            answer = outcome(kind, path)
            if answer not in ("opened", "refused"):
                raise AssertionError(answer)

        limits = [f"-max_total_time={seconds}", "-timeout=5", "-rss_limit_mb=4000", "-max_len=20000"]
        atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={found}/", str(found)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
