import sys,subprocess
sys.path.insert(0,'/work/main'); sys.path.insert(0,'/work/main/tools')
from pathlib import Path
from playwright.sync_api import sync_playwright
import importlib.util
root=Path(sys.argv[1]); out=Path('/tmp/17/shots'); out.mkdir(exist_ok=True)
exe=subprocess.run(['which','chromium'],capture_output=True,text=True).stdout.strip()
with sync_playwright() as p:
    b=p.chromium.launch(executable_path=exe,args=['--no-sandbox'])
    for theme in ('light','dark'):
        for w in (1280,390):
            pg=b.new_page(viewport={'width':w,'height':900})
            pg.add_init_script(f"localStorage.setItem('theme','{theme}');localStorage.setItem('mode','{theme}')")
            for name in sys.argv[2:]:
                pg.goto((root/name).as_uri()); pg.wait_for_timeout(1500)
                over=pg.evaluate("document.documentElement.scrollWidth-innerWidth")
                boxes=pg.evaluate("[...document.querySelectorAll('pre,table,.cell_output,mjx-container')].filter(e=>e.scrollWidth>e.clientWidth+1&&e.clientWidth>0).map(e=>e.tagName+':'+e.innerText.slice(0,50))")
                print(theme,w,name,over,boxes[:5])
                h=pg.evaluate("document.documentElement.scrollHeight")
                if (theme,w) in (('light',1280),('dark',390)):
                    pg.screenshot(path=str(out/f"{Path(name).stem}-{theme}-{w}.png"),full_page=True)
            pg.close()
    b.close()
