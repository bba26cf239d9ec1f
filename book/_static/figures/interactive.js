// Replaces the still picture of each `figure.interactive` by what the module named after it draws.
// A figure called `softmax` is drawn by softmax.js, which exports draw(container, picture): the empty element to fill,
// and the still picture that it replaces. If the script does not run or fails, the picture stays.
for (const figure of document.querySelectorAll("figure.interactive")) {
  const picture = figure.querySelector("img");
  const container = document.createElement("div");
  container.className = "playground";
  import(new URL(`./${figure.id}.js`, import.meta.url))
    .then(async (module) => {
      await module.draw(container, picture);
      (picture.closest("a") ?? picture).replaceWith(container);
      figure.dataset.ready = "true";
    })
    .catch((error) => console.error(figure.id, error));
}
