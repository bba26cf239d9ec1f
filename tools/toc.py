"""Print the notebooks that `_toc.yml` lists, in the order of the book."""

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent


def pages():
    """Return the files of `_toc.yml`, root first, as paths relative to the repository."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    names = [toc["root"]]
    for part in toc["parts"]:
        names += [chapter["file"] for chapter in part["chapters"]]
    found = []
    for name in names:
        files = [Path(name + ending) for ending in (".ipynb", ".md") if (ROOT / (name + ending)).is_file()]
        if len(files) != 1:
            raise SystemExit(f"_toc.yml lists {name!r}, for which there are {len(files)} files; 1 is needed.")
        found += files
    return found


def notebooks():
    """Return the notebooks among `pages`."""
    return [page for page in pages() if page.suffix == ".ipynb"]


if __name__ == "__main__":
    print(" ".join(str(page) for page in notebooks()))
