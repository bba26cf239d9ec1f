"""Names of classes that a page and a picture must show as they are."""

HOSTILE = (
    '"><img src=x onerror=alert(1)>',
    "<script>alert('2')</script> & {{ 3 }} {% raw %}",
    r"$\frac{$ 漢字 e" + "x" * 60,
)
