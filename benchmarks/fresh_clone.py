"""Do the README's two commands work in a fresh clone, how long do they take, and do they work without a network?

Clones the repository's last commit into a temporary folder and there runs `make book` and `make test` with an empty
data cache, then both with the network refused and another empty cache, where the sample stands in. It is refused for
real, in a network namespace that has only the loopback device (Linux, `unshare` and `ip`). Writes
results/fresh_clone.json. About twenty minutes on two cores.
"""

import os
import subprocess
import tempfile
import time
from pathlib import Path

from d2lcls import results

ROOT = Path(__file__).resolve().parent.parent
REFUSED = ["unshare", "-n" if os.geteuid() == 0 else "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


def main():
    """Run every command and stop at the first that fails."""
    with tempfile.TemporaryDirectory() as work:
        clone = Path(work, "clone")
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        cache, empty = Path(work, "cache"), Path(work, "empty")
        minutes = {
            "book": _run(clone, cache, "make", "book"),
            "test": _run(clone, cache, "make", "test"),
            "book_refused": _run(clone, empty, *REFUSED, "make", "book"),
            "test_refused_empty": _run(clone, empty, *REFUSED, "make", "test"),
        }
        sizes = {"environment_gb": _gigabytes(clone / ".venv"), "cache_gb": _gigabytes(cache)}
    print(results.write("fresh_clone", "python benchmarks/fresh_clone.py", {
        "minutes": minutes, "sizes": sizes,
        "units": {"minutes": "one run each; `book` and `test` include installing and fetching CIFAR-10"}}))


def _run(clone, cache, *command):
    environment = {**os.environ, "D2LCLS_HOME": str(cache)}
    for name in ("PYTHONPATH", "VIRTUAL_ENV", "D2LCLS_SCALE"):
        environment.pop(name, None)
    begun = time.perf_counter()
    subprocess.run(command, cwd=clone, env=environment, check=True)
    minutes = (time.perf_counter() - begun) / 60
    print(f"{' '.join(command)}: {minutes:.1f} minutes", flush=True)
    return minutes


def _gigabytes(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink()) / 1e9


if __name__ == "__main__":
    main()
