// A 3 x 3 kernel slides over a grey picture; the nine products under the pointer are shown with their sum.

import { ACCENT, button, canvas, clamp, element, follow, format, status } from "./parts.js";
import { CUP } from "./pictures.js";

const SIDE = 32, OUT = SIDE - 2, CELL = 8; // pixels of the picture, of the output, and of the screen per pixel
const PRESETS = {
  identity: [0, 0, 0, 0, 1, 0, 0, 0, 0],
  blur: [0.0625, 0.125, 0.0625, 0.125, 0.25, 0.125, 0.0625, 0.125, 0.0625],
  "vertical edges": [-1, 0, 1, -2, 0, 2, -1, 0, 1],
  "horizontal edges": [-1, -2, -1, 0, 0, 0, 1, 2, 1],
  sharpen: [0, -1, 0, -1, 5, -1, 0, -1, 0],
};
const NINE = [...Array(9).keys()];

/** The nine numbers of a picture under the kernel, for one number of the output. */
export function windowAt(picture, row, column) {
  return NINE.map((index) => picture[(row + Math.floor(index / 3)) * SIDE + column + (index % 3)]);
}

/** The output, row by row: in each position, the sum of nine products. */
export function convolve(picture, kernel) {
  const output = [];
  for (let row = 0; row < OUT; row++) {
    for (let column = 0; column < OUT; column++) {
      output.push(windowAt(picture, row, column).reduce((sum, value, index) => sum + value * kernel[index], 0));
    }
  }
  return output;
}

/** The grey level at which a number of the output is shown: 0 is mid-grey if the kernel's numbers sum to 0. */
export function levels(output, kernel) {
  const total = kernel.reduce((sum, value) => sum + value, 0);
  if (Math.abs(total) > 1e-9) return output.map((value) => clamp(value, 0, 255));
  const largest = output.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-9);
  return output.map((value) => 127.5 + (127.5 * value) / largest);
}

/** Draw grey levels, `width` a row, `margin` cells from the border, and a frame around some cells. */
function paint(picture, values, width, margin, frame) {
  const context = picture.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, picture.width, picture.height);
  values.forEach((value, index) => {
    const grey = Math.round(value);
    context.fillStyle = `rgb(${grey} ${grey} ${grey})`;
    context.fillRect((margin + (index % width)) * CELL, (margin + Math.floor(index / width)) * CELL, CELL, CELL);
  });
  for (const [colour, thickness] of [["#fff", 5], [ACCENT, 3]]) {
    context.strokeStyle = colour;
    context.lineWidth = thickness;
    context.strokeRect(...frame.map((cells) => cells * CELL));
  }
}

export function draw(container) {
  let [row, column] = [9, 6];
  let kernel = PRESETS["vertical edges"];
  let output = [];

  const inputs = NINE.map((index) => {
    const label = `Kernel, row ${Math.floor(index / 3)}, column ${index % 3}`;
    const input = element("input", { type: "number", step: "any", "aria-label": label });
    input.addEventListener("input", () => {
      kernel = inputs.map((each) => (Number.isFinite(each.valueAsNumber) ? each.valueAsNumber : 0));
      apply();
    });
    return input;
  });
  const presets = Object.keys(PRESETS).map((name) => button(name, () => {
    kernel = PRESETS[name];
    write();
    apply();
  }));
  const before = canvas(SIDE * CELL, SIDE * CELL, "Picture. The arrow keys move the kernel.");
  const after = element("canvas", { width: SIDE * CELL, height: SIDE * CELL, role: "img", "aria-label": "Output" });
  const range = element("span");
  const products = element("div", { className: "nine products" }, ...NINE.map(() => element("span")));
  const result = status();

  function write() {
    inputs.forEach((input, index) => { input.value = kernel[index]; });
  }

  /** Compute the output anew. */
  function apply() {
    output = convolve(CUP, kernel);
    presets.forEach((each) => {
      each.setAttribute("aria-pressed", PRESETS[each.textContent].every((value, index) => value === kernel[index]));
    });
    const [least, most] = [Math.min(...output), Math.max(...output)].map((value) => format(value, 2));
    range.textContent = `Output, 30 × 30: ${least} to ${most}`;
    show();
  }

  /** Show both pictures and the nine products. */
  function show() {
    const values = windowAt(CUP, row, column);
    paint(before, CUP, SIDE, 0, [column, row, 3, 3]);
    paint(after, levels(output, kernel), OUT, 1, [column + 1, row + 1, 1, 1]);
    values.forEach((value, index) => {
      products.children[index].replaceChildren(
        `${value} × ${format(kernel[index], 4)}`, element("b", {}, `= ${format(value * kernel[index], 2)}`),
      );
    });
    const sum = format(output[row * OUT + column], 2);
    result.textContent = `Row ${row}, column ${column} of the output (counted from 0): the nine products sum to ${sum}.`;
  }

  function move(newRow, newColumn) {
    row = clamp(newRow, 0, OUT - 1);
    column = clamp(newColumn, 0, OUT - 1);
    show();
  }
  for (const picture of [before, after]) { // the output lies as the window's centre does in the picture
    follow(
      picture,
      (x, y) => move(Math.floor(y * SIDE) - 1, Math.floor(x * SIDE) - 1),
      (right, down) => move(row + down, column + right),
    );
  }
  container.append(
    element("div", { className: "controls", role: "group", "aria-label": "Kernels to start from" }, ...presets),
    element("div", { className: "panel" }, before, element("span", {}, "Picture, 32 × 32: 0 to 255")),
    element("div", { className: "panel" }, after, range),
    element(
      "div", { className: "panel numbers" }, element("div", { className: "nine" }, ...inputs), element("span", {}, "Kernel"),
    ),
    element("div", { className: "panel numbers" }, products, element("span", {}, "Picture × kernel")),
    result,
    element("p", {}, "If the kernel’s numbers sum to 0, an output of 0 is shown as mid-grey; otherwise outputs below "
      + "0 are shown black and those above 255 white."),
  );
  write();
  apply();
}
