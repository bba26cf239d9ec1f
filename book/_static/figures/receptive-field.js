// Layers of convolutions and pooling: which numbers of each earlier layer one number depends on.

import { ACCENT, canvas, choice, clamp, element, follow, status } from "./parts.js";
import { CAT } from "./pictures.js";

const SIDE = 32, PIXELS = 256; // numbers along a side of the picture, and of the drawing of each layer
const KINDS = {
  conv3: { name: "conv 3 × 3", kernel: 3, padding: 1 },
  conv5: { name: "conv 5 × 5", kernel: 5, padding: 2 },
  pool2: { name: "pool 2 × 2", kernel: 2, padding: 0 },
};
const START = [
  { kind: "conv3", stride: 1 }, { kind: "conv3", stride: 1 }, { kind: "pool2", stride: 2 }, { kind: "conv3", stride: 1 },
];

/** Numbers along a side: of the picture, then of each layer. */
export function sizes(layers) {
  const all = [SIDE];
  for (const { kind, stride } of layers) {
    const { kernel, padding } = KINDS[kind];
    all.push(Math.floor((all.at(-1) + 2 * padding - kernel) / stride) + 1);
  }
  return all;
}

/** Side of the receptive field of a number of each layer, in pixels, as long as it does not reach the border. */
export function fields(layers) {
  let [field, jump] = [1, 1]; // jump: pixels from one number to its neighbour
  return layers.map(({ kind, stride }) => {
    field += (KINDS[kind].kernel - 1) * jump;
    jump *= stride;
    return field;
  });
}

/**
 * Where the number in `position` of layer `depth` gets its values from, along one side.
 * Returns [first, last] for the picture and each layer up to that one, without the padding.
 */
export function sources(layers, depth, position) {
  const size = sizes(layers);
  let [first, last] = [position, position];
  const found = [[first, last]];
  for (let layer = depth; layer > 0; layer--) {
    const { kind, stride } = layers[layer - 1];
    const { kernel, padding } = KINDS[kind];
    first = Math.max(first * stride - padding, 0);
    last = Math.min(last * stride - padding + kernel - 1, size[layer - 1] - 1);
    found.unshift([first, last]);
  }
  return found;
}

/** Draw a layer of size x size numbers and mark some of them: ranges are [first, last], or null for none. */
function paint(picture, size, rows, columns) {
  const context = picture.getContext("2d");
  const cell = PIXELS / size;
  context.fillStyle = "#d3dfeb";
  context.fillRect(0, 0, PIXELS, PIXELS);
  if (picture.dataset.layer === "0") paintCat(context, cell, rows, columns);
  const box = rows && [columns[0], rows[0], columns[1] - columns[0] + 1, rows[1] - rows[0] + 1].map((n) => n * cell);
  if (rows && picture.dataset.layer !== "0") {
    context.fillStyle = "#eba880";
    context.fillRect(...box);
  }
  if (picture.dataset.layer !== "0") {
    context.fillStyle = "#fff";
    for (let line = 0; line <= size; line++) {
      context.fillRect(line * cell - 1, 0, 2, PIXELS);
      context.fillRect(0, line * cell - 1, PIXELS, 2);
    }
  }
  if (!rows) return;
  for (const [colour, thickness] of [["#fff", 8], [ACCENT, 5]]) {
    context.strokeStyle = colour;
    context.lineWidth = thickness;
    context.strokeRect(...box);
  }
}

/** Draw the photograph, paler outside the field. */
function paintCat(context, cell, rows, columns) {
  for (let row = 0; row < SIDE; row++) {
    for (let column = 0; column < SIDE; column++) {
      const inside = rows && row >= rows[0] && row <= rows[1] && column >= columns[0] && column <= columns[1];
      const colour = [0, 1, 2].map((channel) => {
        const level = CAT[(row * SIDE + column) * 3 + channel];
        return inside ? level : Math.round(0.45 * level + 0.55 * 255);
      });
      context.fillStyle = `rgb(${colour.join(" ")})`;
      context.fillRect(column * cell, row * cell, cell, cell);
    }
  }
}

export function draw(container) {
  const layers = START.map((layer) => ({ ...layer }));
  const depths = [0, ...layers.map((_, index) => index + 1)];
  let depth = layers.length;
  let [row, column] = [8, 8];
  const result = status();

  const pictures = depths.map((layer) => {
    const name = layer ? `Layer ${layer}` : "Picture";
    const picture = canvas(PIXELS, PIXELS, `${name}. The arrow keys select one number.`);
    picture.dataset.layer = layer;
    if (!layer) {
      picture.removeAttribute("tabindex"); // nothing to select in the picture
      picture.setAttribute("role", "img");
      picture.setAttribute("aria-label", "Photograph of a cat with the receptive field marked");
      return picture;
    }
    follow(
      picture,
      (x, y) => select(layer, Math.floor(y * sizes(layers)[layer]), Math.floor(x * sizes(layers)[layer])),
      (right, down) => (layer === depth ? select(layer, row + down, column + right) : select(layer, row, column)),
    );
    return picture;
  });
  const captions = depths.map(() => element("span"));

  const panels = depths.map((layer) => {
    const title = element("span", {}, layer ? `Layer ${layer}` : "Picture");
    const panel = element("div", { className: "panel small" }, title, pictures[layer], captions[layer]);
    if (!layer) return panel;
    const change = (name) => (value) => {
      layers[layer - 1][name] = name === "stride" ? Number(value) : value;
      const middle = Math.floor(sizes(layers)[depth] / 2);
      select(depth, middle, middle);
    };
    const kinds = Object.entries(KINDS).map(([kind, { name }]) => [kind, name]);
    panel.append(
      choice("", kinds, layers[layer - 1].kind, change("kind"), `Kind of layer ${layer}`),
      choice("Stride", [[1, "1"], [2, "2"]], layers[layer - 1].stride, change("stride"), `Stride of layer ${layer}`),
    );
    return panel;
  });

  function select(newDepth, newRow, newColumn) {
    const size = sizes(layers);
    const field = fields(layers);
    depth = newDepth;
    row = clamp(newRow, 0, size[depth] - 1);
    column = clamp(newColumn, 0, size[depth] - 1);
    const [rows, columns] = [sources(layers, depth, row), sources(layers, depth, column)];
    for (const layer of depths) {
      paint(pictures[layer], size[layer], rows[layer] ?? null, columns[layer] ?? null);
      captions[layer].replaceChildren(
        `${size[layer]} × ${size[layer]}`,
        element("b", {}, layer ? `field ${field[layer - 1]} × ${field[layer - 1]}` : ""),
      );
    }
    const extent = (layer) => [rows, columns].map((range) => range[layer][1] - range[layer][0] + 1).join(" × ");
    const parts = depths.slice(1, depth).reverse().map((layer) => `${extent(layer)} numbers of layer ${layer}`);
    const full = field[depth - 1];
    const cut = extent(0) === `${full} × ${full}` ? "" : ` (the field of ${full} × ${full} is cut off at the border)`;
    result.textContent = `The number of layer ${depth} in row ${row}, column ${column} (counted from 0) depends on `
      + `${[...parts, `${extent(0)} pixels of the picture`].join(", on ")}${cut}.`;
  }

  container.append(...panels, result);
  select(depth, row, column);
}
