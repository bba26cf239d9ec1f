"""text X.ipynb | book x.txt X.ipynb"""
import sys, shlex, nbformat
sys.path.insert(0, "/work/main")
def head(cell):
    if cell.cell_type == "markdown": return "#%% md"
    m = cell.metadata
    out = "#%% code"
    tags = m.get("tags", [])
    if tags: out += " " + ",".join(tags)
    my = m.get("mystnb", {})
    for k, v in (("alt", my.get("image", {}).get("alt")), ("caption", my.get("figure", {}).get("caption")), ("name", my.get("figure", {}).get("name"))):
        if v: out += f" {k}={shlex.quote(v)}"
    extra = {k: v for k, v in my.items() if k not in ("image", "figure")}
    assert not extra and set(my.get("image", {})) <= {"alt"} , (extra, my)
    return out
def text(path):
    nb = nbformat.read(path, as_version=4)
    return "\n".join(head(c) + "\n" + c.source.rstrip("\n") + "\n" for c in nb.cells)
def book(txt, path):
    from tools.execute import tidy
    old = {}
    try:
        for c in nbformat.read(path, as_version=4).cells:
            if c.cell_type == "code": old.setdefault(c.source, []).append(c)
    except FileNotFoundError: pass
    cells = []
    for block in ("\n" + open(txt).read()).split("\n#%% ")[1:]:
        first, _, src = block.partition("\n")
        src = src.strip("\n")
        words = shlex.split(first)
        if words[0] == "md":
            cells.append(nbformat.v4.new_markdown_cell(src)); continue
        c = nbformat.v4.new_code_cell(src)
        tags = []; my = {}
        for w in words[1:]:
            k, eq, v = w.partition("=")
            if eq and k in ("alt", "caption", "name"):
                if k == "alt": my["image"] = {"alt": v}
                else: my.setdefault("figure", {})[k] = v
            else: tags = w.split(",")
        if tags: c.metadata["tags"] = tags
        if my: c.metadata["mystnb"] = my
        if {"hide-input", "hide-cell"} & set(tags): c.metadata["jupyter"] = {"source_hidden": True}
        if old.get(src):
            o = old[src].pop(0); c.outputs = o.outputs; c.execution_count = o.execution_count
        cells.append(c)
    nbformat.write(tidy(nbformat.v4.new_notebook(cells=cells)), path)
if __name__ == "__main__":
    if sys.argv[1] == "text": sys.stdout.write(text(sys.argv[2]))
    else: book(sys.argv[2], sys.argv[3])
