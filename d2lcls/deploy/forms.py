"""The forms of one model in one folder, such as models/cat/{mxnet,onnx,int8}; which is the fastest on this machine?"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from d2lcls.deploy.manifest import FILE, FORMS, NATIVE, Manifest, ModelError, read_manifest
from d2lcls.deploy.predictor import Predictor, open_model
from d2lcls.deploy.timing import Sleeper, command_of, inputs_file, take_turns
from d2lcls.machine.cores import int8_saturates

import numpy as np

AUTO = "auto"
ROUNDS = 3


@dataclass(frozen=True)
class Choice:
    """The form that was chosen, and why; as text, one line.

    Args:
        folder: its model folder.
        form: as in its manifest.
        ms: dict from the names of the folders that were timed to the median time of one picture in milliseconds, the
            fastest first; empty where there was nothing to choose from.
        left_out: dict from the names of the folders that cannot be used on this machine to the reasons.
    """

    folder: Path
    form: str
    ms: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in self.ms.items())
        reasons = "; ".join(f"{name} left out ({reason})" for name, reason in self.left_out.items())
        return f"{self.folder} (form {self.form})" + "".join(f"; {text}" for text in (times, reasons) if text)


def find_forms(folder: str | Path) -> dict[Path, Manifest]:
    """Return the model folders that a folder holds, in the order of `FORMS`; a model folder holds itself.

    Checksums are not verified: `open_model` does that.

    Args:
        folder: a model folder, or one whose subfolders are model folders.

    Raises:
        FileNotFoundError: there is no model.
        ModelError: a manifest is damaged, or the subfolders hold different models.
    """
    folder = Path(folder)
    if (folder / FILE).is_file() or not any(folder.glob(f"*/{FILE}")):
        return {folder: read_manifest(folder, verify=False)}
    forms = {path.parent: read_manifest(path.parent, verify=False) for path in sorted(folder.glob(f"*/{FILE}"))}
    first_path, first = next(iter(forms.items()))
    for path, manifest in forms.items():
        for what in ("name", "classes", "preprocess"):
            if getattr(manifest, what) != getattr(first, what):
                raise ModelError(
                    f"{folder}: {first_path.name} and {path.name} are different models, as their manifests differ in "
                    f"{what!r}. Keep forms of one model in a folder, or give one of the model folders in it."
                )
    return dict(sorted(forms.items(), key=lambda item: FORMS.index(item[1].form)))


def fastest_form(folder: str | Path, form: str = AUTO, threads: int | None = None, trust: bool = False) -> Choice:
    """Choose the form of a model that is the fastest on this machine, one picture at a time.

    Each form is loaded in a process of its own, and all are timed in turn, which takes a few seconds. A model folder,
    or one that holds a single form that fits, is returned without timing it or loading it. Forms that cannot be loaded
    here are left out, and so are int8 models that need a processor with VNNI where there is none.

    Args:
        folder: as for `find_forms`.
        form: "auto", or one of `FORMS`, the only one to be considered.
        threads: value of OMP_NUM_THREADS while a form is timed; None is that of this process.
        trust: consider machine code too, as for `open_model`.

    Raises:
        FileNotFoundError, ModelError: as `find_forms`; also where there is no such form, or none that can be loaded.
    """
    forms = find_forms(folder)
    candidates = {path: manifest for path, manifest in forms.items() if form in (AUTO, manifest.form)}
    if not candidates:
        present = ", ".join(dict.fromkeys(manifest.form for manifest in forms.values()))
        raise ModelError(f"{folder}: holds no model of form {form}. Choose from: {AUTO}, {present}.")
    left_out: dict[str, str] = {}
    if len(candidates) > 1 and int8_saturates():
        left_out = {
            path.name: "it needs a processor with VNNI"
            for path, manifest in candidates.items()
            if manifest.needs_vnni()
        }
    if len(candidates) > 1 and not trust:
        left_out |= {
            path.name: "it is machine code; --trust allows it"
            for path, manifest in candidates.items()
            if manifest.form in NATIVE
        }
    usable = [path for path in candidates if path.name not in left_out]
    times: dict[Path, float] = {}
    if len(usable) > 1:
        times, failed = _time(usable, forms[usable[0]].input_shape(), threads, trust)
        usable, left_out = list(times), left_out | failed
    if not usable:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ModelError(f"{folder}: none of its forms can be used on this machine. {reasons}")
    return Choice(usable[0], forms[usable[0]].form, {path.name: ms for path, ms in times.items()}, left_out)


def _time(
    folders: list[Path], shape: tuple[int, ...], threads: int | None, trust: bool
) -> tuple[dict[Path, float], dict[str, str]]:
    """Return the milliseconds of one picture by folder, the fastest first, and by name why others cannot be loaded."""
    sleepers: dict[Path, Sleeper] = {}
    failed: dict[str, str] = {}
    with inputs_file(np.random.default_rng(0).normal(size=shape).astype(np.float32)) as inputs:
        try:
            for folder in folders:
                try:
                    sleepers[folder] = Sleeper(command_of(folder, inputs, trust), threads=threads)
                except RuntimeError as error:
                    failed[folder.name] = " ".join(str(error).split())
            rounds = [take_turns(sleepers, 1, turn) for turn in range(ROUNDS)]
        finally:
            for sleeper in sleepers.values():
                sleeper.close()
    medians = {folder: statistics.median(times[folder] for times in rounds) for folder in sleepers}
    return dict(sorted(medians.items(), key=lambda item: item[1])), failed


def load_model(folder: str | Path, form: str = AUTO, trust: bool = False) -> Predictor:
    """Load a model folder, or the fastest form on this machine of a folder that holds several forms of one model.

    Args:
        folder: a model folder, as `export` and its later steps write it, or a folder of such folders.
        form: "auto", or the form to load; see `fastest_form`.
        trust: load machine code too, as for `open_model`.

    Raises:
        FileNotFoundError, ModelError, ImportError: as `open_model`; ModelError also if there is no such form.
    """
    return open_model(fastest_form(folder, form, trust=trust).folder, trust)
