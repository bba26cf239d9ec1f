"""Print the notebooks that `_toc.yml` lists, in the order of the book."""

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent


def pages() -> list[Path]:
    """Return the files of `_toc.yml`, root first, as paths relative to the repository."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    names = [toc["root"]]
    for part in toc["parts"]:
        names += [chapter["file"] for chapter in part["chapters"]]
    paths: list[Path] = []
    for name in names:
        files = [Path(name + ending) for ending in (".ipynb", ".md") if (ROOT / (name + ending)).is_file()]
        if len(files) != 1:
            raise SystemExit(
                f"_toc.yml lists {name!r}: expected one file {name}.ipynb or {name}.md, found {len(files)}."
            )
        paths += files
    return paths


def notebooks() -> list[Path]:
    """Return the notebooks among `pages`."""
    return [page for page in pages() if page.suffix == ".ipynb"]


if __name__ == "__main__":
    print(" ".join(str(page) for page in notebooks()))
