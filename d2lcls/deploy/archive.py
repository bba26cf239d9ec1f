"""A model folder as an archive for the MXNet Model Server (multi-model-server), for those who run one.

That server was last released in 2023, with the Netty of that year. It has no authentication, and its management port
runs the code of any archive that a client names: keep it behind a proxy that checks who sends a request. `d2lcls serve`
does not need it.
"""

import json
import zipfile
from pathlib import Path
from typing import IO

from d2lcls.deploy import archive_handler
from d2lcls.deploy.manifest import read_manifest
from d2lcls.machine.files import write_atomically


def write_archive(folder: str | Path, path: str | Path) -> Path:
    """Write a model folder as a .mar archive, and return its path.

    The server's Python needs d2lcls, so that pictures are prepared there as they are here. Start it with:
    multi-model-server --start --model-store FOLDER --models NAME=FILE.mar

    Args:
        folder: a model folder of any form.
        path: of the archive; its name must end in .mar.

    Raises:
        FileNotFoundError, ModelError: as `read_manifest`.
        ValueError: the path has another ending.
    """
    folder, path = Path(folder), Path(path)
    if path.suffix != ".mar":
        raise ValueError(f"{path}: the server reads files whose name ends in .mar. Name it {path.stem}.mar.")
    manifest = read_manifest(folder)
    content = {
        "runtime": "python",
        "specificationVersion": "1.0",
        "implementationVersion": "1.0",
        "modelServerVersion": "1.0",
        "engine": {"engineName": "MXNet", "engineVersion": "1.9.1"},
        "model": {
            "modelName": manifest.name,
            "modelVersion": "1.0",
            "handler": "handler.py:handle",
            "description": f"{manifest.form}, {len(manifest.classes)} classes",
        },
    }

    def add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
        entry = zipfile.ZipInfo(name)  # dated 1980, so that the same model always makes the same archive
        entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
        archive.writestr(entry, content)

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            add(archive, "MAR-INF/MANIFEST.json", json.dumps(content, indent=1).encode())
            add(archive, "handler.py", Path(archive_handler.__file__).read_bytes())
            for name in ("manifest.json", *manifest.files):
                add(archive, name, (folder / name).read_bytes())

    write_atomically(path, write)
    return path
