// Replaces the still picture of each `figure.interactive` by what the module named after the picture's file draws.
// The picture softmax.png is replaced by softmax.js, which exports draw(container, picture): the empty element to fill,
// and the still picture. If the script does not run or fails, the picture stays.
for (const figure of document.querySelectorAll("figure.interactive")) {
  const picture = figure.querySelector("img");
  const [, name] = picture.src.match(/([a-z-]+)\d*\.\w+$/); // Sphinx numbers files of one name: softmax1.png
  const container = document.createElement("div");
  container.className = "playground";
  container.setAttribute("role", "group");
  container.setAttribute("aria-label", `Interactive figure: ${name.replaceAll("-", " ")}`);
  import(new URL(`./${name}.js`, import.meta.url))
    .then(async (module) => {
      await module.draw(container, picture);
      (picture.closest("a") ?? picture).replaceWith(container);
      figure.dataset.ready = name;
    })
    .catch((error) => console.error(name, error));
}
