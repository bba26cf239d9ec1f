"""edit.py FILE: reads 'page' sections with OLD => NEW pairs; whitespace in OLD is flexible."""
import re,sys
def run(edits, folder="/tmp/17/t"):
    for page, pairs in edits.items():
        p=page if page.startswith("/") else f"{folder}/{page}.txt"; s=open(p).read()
        for old,new in pairs:
            rx=r"\s+".join(re.escape(w) for w in old.split())
            n=len(re.findall(rx,s))
            if n!=1: print(f"{page}: {n} x {old[:90]!r}"); 
            if n==1: s=re.sub(rx,lambda m:new,s)
        open(p,"w").write(s)
