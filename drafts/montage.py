from PIL import Image
import glob
Image.MAX_IMAGE_PIXELS=None
for f in sorted(glob.glob('/tmp/17/shots/*-????.png')+glob.glob('/tmp/17/shots/*-390.png')):
    im=Image.open(f).convert('RGB'); print(f, im.size)
    w,h=im.size; H=2600
    cols=[im.crop((0,y,w,min(y+H,h))) for y in range(0,h,H)]
    per=4 if w>1000 else 9
    for i in range(0,len(cols),per):
        part=cols[i:i+per]; m=Image.new('RGB',(w*len(part),H),'white')
        for k,c in enumerate(part): m.paste(c,(k*w,0))
        s=0.42 if w>1000 else 0.6
        m=m.resize((int(m.width*s),int(m.height*s))); m.save(f[:-4]+f'_m{i//per}.png')
