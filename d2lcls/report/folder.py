"""What was found in a run as a folder of pictures and tables: what `d2lcls explain` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from d2lcls.machine.files import write_atomically
from d2lcls.report.drawings import as_file, draw_calibration, draw_confusion, draw_maps, draw_mistakes
from d2lcls.report.examples import Example
from d2lcls.report.findings import Findings
from d2lcls.report.tables import classes_csv, confusion_csv, mistakes_csv

from matplotlib.figure import Figure

MAPS = "gradcam.png"


def write_explanation(
    folder: str | Path, findings: Findings | None, pictures: Sequence[Example] | None = None
) -> list[Path]:
    """Write figures and tables into a folder; those of an earlier call are replaced, and other files stay.

    Args:
        folder: made if it does not exist.
        findings: of a run; None writes only the maps of the pictures.
        pictures: shown with their Grad-CAM maps in place of the worst mistakes.

    Returns:
        the files that were written.

    Raises:
        OSError: a file cannot be written.
    """
    examples = pictures if pictures is not None else findings.mistakes if findings else []
    figures: dict[str, Figure | None] = {MAPS: draw_maps(examples)}
    tables: dict[str, str] = {}
    if findings:
        analysis = findings.analysis
        figures |= {
            "confusion.png": draw_confusion(analysis),
            "mistakes.png": draw_mistakes(findings),
            "calibration.png": draw_calibration(findings.calibration),
        }
        tables = {
            "confusion.csv": confusion_csv(analysis.matrix, analysis.classes),
            "mistakes.csv": mistakes_csv(findings.mistakes),
            "classes.csv": classes_csv(analysis.classes, analysis.counts, analysis.class_accuracies),
        }
    contents = {name: as_file(figure, "png") if figure else None for name, figure in figures.items()}
    contents |= {name: text.encode("utf-8", "surrogateescape") for name, text in tables.items()}
    return _write(Path(folder), contents)


def _write(folder: Path, contents: Mapping[str, bytes | None]) -> list[Path]:
    """Write files; one without content is removed, which an earlier call may have left."""
    for name, content in contents.items():
        if content is None:
            (folder / name).unlink(missing_ok=True)
        else:
            write_atomically(folder / name, content)
    return [folder / name for name, content in contents.items() if content is not None]
