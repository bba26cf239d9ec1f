import sys, nbformat, base64, re
for path in sys.argv[1:]:
    nb = nbformat.read(path, as_version=4); name = path.split("/")[-1][:-6]; out=[]; k=0
    for c in nb.cells:
        if c.cell_type=="markdown": out.append(c.source); continue
        tags=c.metadata.get("tags",[])
        if "remove-cell" in tags: continue
        if "hide-cell" in tags or "hide-input" in tags:
            out.append("[folded code]\n```python\n"+c.source+"\n```" )
        else: out.append("```python\n"+c.source+"\n```")
        for o in c.outputs:
            d=o.get("data",{})
            if "image/png" in d:
                k+=1; f=f"/tmp/readers/{name}-{k}.png"; open(f,"wb").write(base64.b64decode(d["image/png"]))
                cap=c.metadata.get("mystnb",{}).get("figure",{}).get("caption",""); out.append(f"[FIGURE {f}]\nCaption: {cap}")
            elif "text/html" in d or "text/markdown" in d: out.append("Output:\n"+re.sub(r"<[^>]+>"," ",d.get("text/markdown") or d.get("text/plain") or ""))
            elif "text/plain" in d: out.append("Output:\n"+d["text/plain"])
            elif o.output_type=="stream": out.append("Output:\n"+o.text)
    t="\n\n".join(out); t=re.sub(r"<!--[^>]*-->","",t)
    open(f"/tmp/readers/{name}.md","w").write(t); print(name,len(t.split()),k)
