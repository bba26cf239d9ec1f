// Random changes to a photograph, drawn from a seed; only on a canvas.

import { button, clamp, element, fixed, status } from "./parts.js";
import { CAT } from "./pictures.js";

const SIDE = 32, CELL = 8; // pixels of the photograph, and of the screen per pixel
const GREY = [0.299, 0.587, 0.114]; // weights of red, green and blue in the brightness, ITU-R BT.601

/** A generator of random numbers from 0 to 1 (mulberry32): the same seed gives the same numbers. */
export function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** All random numbers that one seed gives. They are drawn whether they are used or not, so that each keeps its own. */
export function drawn(seed) {
  const random = generator(seed);
  const whole = (low, high) => low + Math.floor(random() * (high - low + 1));
  const around = (spread) => spread * (2 * random() - 1);
  const crop = { side: whole(20, 30), top: random(), left: random() };
  crop.top = Math.floor(crop.top * (SIDE - crop.side + 1));
  crop.left = Math.floor(crop.left * (SIDE - crop.side + 1));
  return {
    crop,
    shift: { right: whole(-4, 4), down: whole(-4, 4) },
    flip: { mirrored: random() < 0.5 },
    rotation: { degrees: around(15) },
    jitter: { brightness: 1 + around(0.2), contrast: 1 + around(0.2), saturation: 1 + around(0.2) },
    cutout: { row: whole(0, SIDE - 1), column: whole(0, SIDE - 1) }, // centre
  };
}

/** A new picture whose pixel in (row, column) is the old one in from(row, column): between pixels, a weighted mean. */
function warp(picture, from, edge) {
  const get = (row, column, channel) => {
    const [y, x] = edge === "repeat" ? [clamp(row, 0, SIDE - 1), clamp(column, 0, SIDE - 1)] : [row, column];
    return y < 0 || x < 0 || y >= SIDE || x >= SIDE ? 0 : picture[(y * SIDE + x) * 3 + channel]; // black outside
  };
  return picture.map((_, index) => {
    const pixel = Math.floor(index / 3), channel = index % 3;
    const [y, x] = from(Math.floor(pixel / SIDE), pixel % SIDE);
    const top = Math.floor(y), left = Math.floor(x);
    const upper = (left + 1 - x) * get(top, left, channel) + (x - left) * get(top, left + 1, channel);
    const lower = (left + 1 - x) * get(top + 1, left, channel) + (x - left) * get(top + 1, left + 1, channel);
    return Math.round((top + 1 - y) * upper + (y - top) * lower);
  });
}

/** The changes, in the order in which they are made: each takes the picture and its own random numbers. */
export const CHANGES = {
  flip: {
    name: "flip",
    apply: (picture, { mirrored }) => (
      mirrored ? warp(picture, (row, column) => [row, SIDE - 1 - column]) : picture
    ),
    say: ({ mirrored }) => (mirrored ? "mirrored" : "not mirrored"),
  },
  crop: {
    name: "crop and enlarge",
    apply: (picture, { side, top, left }) => {
      const inside = (offset, place) => offset + clamp(((place + 0.5) * side) / SIDE - 0.5, 0, side - 1);
      return warp(picture, (row, column) => [inside(top, row), inside(left, column)], "repeat");
    },
    say: ({ side, top, left }) => `crop of ${side} × ${side} from row ${top}, column ${left}`,
  },
  shift: {
    name: "shift",
    apply: (picture, { right, down }) => warp(picture, (row, column) => [row - down, column - right]),
    say: ({ right, down }) => `shift by ${Math.abs(right)} to the ${right < 0 ? "left" : "right"}, `
      + `${Math.abs(down)} ${down < 0 ? "up" : "down"}`,
  },
  rotation: {
    name: "rotation",
    apply: (picture, { degrees }) => {
      const [sine, cosine] = [Math.sin((degrees * Math.PI) / 180), Math.cos((degrees * Math.PI) / 180)];
      const centre = (SIDE - 1) / 2;
      return warp(picture, (row, column) => [
        centre + sine * (column - centre) + cosine * (row - centre),
        centre + cosine * (column - centre) - sine * (row - centre),
      ]);
    },
    say: ({ degrees }) => `rotation by ${fixed(Math.abs(degrees), 1)}° `
      + (degrees < 0 ? "clockwise" : "anticlockwise"),
  },
  jitter: {
    name: "colour jitter",
    apply: (picture, { brightness, contrast, saturation }) => { // as d2lcls.data.transforms.colour_jitter
      const bright = picture.map((level) => level * brightness);
      const grey = bright.map((_, index) => {
        const first = index - (index % 3);
        return GREY.reduce((sum, weight, channel) => sum + weight * bright[first + channel], 0);
      });
      const mean = grey.reduce((sum, level) => sum + level, 0) / grey.length;
      return bright.map((level, index) => {
        const coloured = grey[index] + (level - grey[index]) * saturation;
        return Math.round(clamp(mean + (coloured - mean) * contrast, 0, 255));
      });
    },
    say: ({ brightness, contrast, saturation }) => `brightness × ${fixed(brightness, 2)}, `
      + `contrast × ${fixed(contrast, 2)}, saturation × ${fixed(saturation, 2)}`,
  },
  cutout: {
    name: "cutout",
    apply: (picture, { row, column }) => picture.map((level, index) => {
      const pixel = Math.floor(index / 3);
      const [down, right] = [Math.floor(pixel / SIDE) - (row - 4), (pixel % SIDE) - (column - 4)];
      return down >= 0 && down < 8 && right >= 0 && right < 8 ? 128 : level;
    }),
    say: ({ row, column }) => `cutout of 8 × 8 around row ${row}, column ${column}`,
  },
};

/** Make the chosen changes with the random numbers of a seed. */
export function augment(picture, chosen, numbers) {
  return Object.entries(CHANGES).reduce(
    (changed, [name, { apply }]) => (chosen.includes(name) ? apply(changed, numbers[name]) : changed), Array.from(picture),
  );
}

function paint(shown, picture) {
  const context = shown.getContext("2d");
  for (let pixel = 0; pixel < SIDE * SIDE; pixel++) {
    context.fillStyle = `rgb(${picture.slice(3 * pixel, 3 * pixel + 3).join(" ")})`;
    context.fillRect((pixel % SIDE) * CELL, Math.floor(pixel / SIDE) * CELL, CELL, CELL);
  }
}

export function draw(container) {
  const canvases = ["The photograph", "The photograph, augmented"].map((label) => (
    element("canvas", { width: SIDE * CELL, height: SIDE * CELL, role: "img", "aria-label": label })
  ));
  const boxes = Object.entries(CHANGES).map(([name, change]) => {
    const box = element("input", { type: "checkbox", name, checked: name === "shift" || name === "flip" });
    box.addEventListener("change", show);
    return { name, box, label: element("label", { className: "box" }, box, change.name) };
  });
  const seed = element("input", { type: "number", min: 0, max: 2 ** 32 - 1, step: 1, value: 1 });
  seed.addEventListener("input", show);
  const result = status();

  function show() {
    const number = clamp(Math.trunc(seed.valueAsNumber) || 0, 0, 2 ** 32 - 1);
    const chosen = boxes.filter(({ box }) => box.checked).map(({ name }) => name);
    const numbers = drawn(number);
    paint(canvases[1], augment(CAT, chosen, numbers));
    const made = Object.keys(CHANGES).filter((name) => chosen.includes(name));
    const said = made.map((name) => CHANGES[name].say(numbers[name])).join("; ");
    result.textContent = `Seed ${number}: ${said || "no change chosen"}.`;
  }

  container.append(
    element("div", { className: "controls", role: "group", "aria-label": "Changes" }, ...boxes.map(({ label }) => label)),
    element("div", { className: "panel" }, canvases[0], element("span", {}, "Original, 32 × 32")),
    element("div", { className: "panel" }, canvases[1], element("span", {}, "Augmented, 32 × 32")),
    element(
      "div", { className: "controls" },
      button("New random draw", () => {
        seed.value = (Math.trunc(seed.valueAsNumber) || 0) + 1;
        show();
      }),
      element("label", {}, element("span", {}, "Seed"), seed),
    ),
    result,
  );
  paint(canvases[0], Array.from(CAT));
  show();
}
