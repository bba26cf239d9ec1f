// A table that is wider than the page scrolls by itself (book.css). The Tab key reaches it, so that the arrow keys can.
const sizes = new ResizeObserver((entries) => {
  for (const { target: table } of entries) {
    if (table.scrollWidth > table.clientWidth) table.tabIndex = 0;
    else table.removeAttribute("tabindex");
  }
});
for (const table of document.querySelectorAll(".bd-article table")) sizes.observe(table);
