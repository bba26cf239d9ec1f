// Gradient descent with momentum on two loss surfaces of two weights, step by step.

import { ACCENT, DARK, button, canvas, choice, clamp, element, fixed, follow, slider, status } from "./parts.js";

const WIDTH = 600, HEIGHT = 400, STEPS = 100, FAR = 100; // pixels, steps of a run; further out than FAR: diverged
const RATES = [0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09,
  0.1, 0.11, 0.12, 0.15, 0.2, 0.25, 0.3];

/** Loss and gradient of two weights, the part of the plane that is shown, and where a path starts. */
export const SURFACES = {
  long: {
    name: "long valley",
    formula: "(w₁² + 20 w₂²) / 2",
    loss: (x, y) => (x * x + 20 * y * y) / 2,
    gradient: (x, y) => [x, 20 * y],
    left: -3, right: 3, bottom: -2, top: 2, start: [-2.6, 1.2], lowest: [0, 0], rate: 0.09,
  },
  curved: {
    name: "curved valley",
    formula: "((1 − w₁)² + 10 (w₂ − w₁²)²) / 2",
    loss: (x, y) => ((1 - x) ** 2 + 10 * (y - x * x) ** 2) / 2,
    gradient: (x, y) => [x - 1 - 20 * x * (y - x * x), 10 * (y - x * x)],
    left: -1.8, right: 1.8, bottom: -0.5, top: 1.9, start: [-1.4, 1.4], lowest: [1, 1], rate: 0.015,
  },
};

/** One step of SGD as MXNet takes it: the velocity is the momentum times the old one minus rate times gradient. */
export function step({ point, velocity }, surface, rate, momentum) {
  const gradient = surface.gradient(...point);
  const faster = velocity.map((value, index) => momentum * value - rate * gradient[index]);
  return { point: point.map((value, index) => value + faster[index]), velocity: faster };
}

/** A number with four significant digits. */
const digits = (value) => String(Number(value.toPrecision(4))).replace("-", "−");

export const diverged = ({ point }) => !point.every((value) => Math.abs(value) <= FAR);

/** The surface in bands, which are lighter the higher the loss: it doubles from one contour to the next. */
function paint(context, surface) {
  const image = context.createImageData(WIDTH, HEIGHT);
  const band = (row, column) => {
    const x = surface.left + ((column + 0.5) / WIDTH) * (surface.right - surface.left);
    const y = surface.top - ((row + 0.5) / HEIGHT) * (surface.top - surface.bottom);
    return clamp(Math.floor(Math.log2(surface.loss(x, y) / 0.01)), 0, 12);
  };
  for (let row = 0; row < HEIGHT; row++) {
    for (let column = 0; column < WIDTH; column++) {
      const here = band(row, column);
      const contour = here !== band(row + 1, column) || here !== band(row, column + 1);
      const colour = contour ? [0x7f, 0x9d, 0xbc] : [0x9d, 0xb8, 0xd2].map((level) => level + ((255 - level) * here) / 12);
      image.data.set([...colour, 255], 4 * (row * WIDTH + column));
    }
  }
  return image;
}

export function draw(container) {
  let surface = SURFACES.long, start = surface.start;
  let rate = surface.rate, momentum = 0;
  let states = [], timer = null;

  const picture = canvas(WIDTH, HEIGHT, "Map of the loss. The arrow keys move the start of the path.");
  const context = picture.getContext("2d");
  let ground = null;
  const axes = element("span"), formula = element("span");
  const result = status();

  const at = ([x, y]) => [ // a point's place in the picture; canvases do not draw what is very far away
    clamp(((x - surface.left) / (surface.right - surface.left)) * WIDTH, -1e5, 1e5),
    clamp(((surface.top - y) / (surface.top - surface.bottom)) * HEIGHT, -1e5, 1e5),
  ];
  function dot(point, radius, colour) {
    context.beginPath();
    context.arc(...at(point), radius, 0, 2 * Math.PI);
    context.fillStyle = colour;
    context.fill();
  }
  function show() {
    context.putImageData(ground, 0, 0);
    context.strokeStyle = DARK;
    context.lineWidth = 3;
    const [x, y] = at(surface.lowest);
    context.strokeRect(x - 7, y - 7, 14, 14);
    context.beginPath();
    states.forEach(({ point }) => context.lineTo(...at(point)));
    context.strokeStyle = ACCENT;
    context.lineWidth = 2.5;
    context.stroke();
    states.forEach(({ point }) => dot(point, 3.5, ACCENT));
    dot(states[0].point, 8, DARK);
    dot(states.at(-1).point, 6, ACCENT);
  }
  function say() {
    const { point } = states.at(-1);
    const number = states.length - 1;
    const where = number ? `After ${number} ${number === 1 ? "step" : "steps"}` : "Start";
    result.textContent = diverged(states.at(-1))
      ? `Step ${number}: the path diverges. Each step leads further away; a lower learning rate may help.`
      : `${where}: w₁ = ${fixed(point[0], 4)}, w₂ = ${fixed(point[1], 4)}, loss ${digits(surface.loss(...point))}.`;
  }
  function stop() {
    clearInterval(timer);
    timer = null;
    run.textContent = `Run ${STEPS} steps`;
  }
  function reset() {
    stop();
    states = [{ point: start, velocity: [0, 0] }];
    show();
    say();
  }
  /** Take one step; false if the path has diverged. */
  function advance() {
    if (diverged(states.at(-1))) return false;
    states.push(step(states.at(-1), surface, rate, momentum));
    return true;
  }
  function finish() {
    stop();
    show();
    say();
  }
  function toggle() {
    if (timer !== null) return finish();
    let left = STEPS;
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
      while (left-- && advance());
      return finish();
    }
    run.textContent = "Stop";
    timer = setInterval(() => {
      if (left-- && advance()) show();
      else finish();
    }, 40);
  }
  const run = button("", toggle);

  const rates = slider("Learning rate", {
    min: 0, max: RATES.length - 1, step: 1, value: RATES.indexOf(rate), show: (index) => String(RATES[index]),
  }, (index) => {
    rate = RATES[index];
    reset();
  });
  const momenta = slider("Momentum", { min: 0, max: 0.99, step: 0.01, value: 0, show: (value) => value.toFixed(2) }, (value) => {
    momentum = value;
    reset();
  });
  function choose(name) {
    surface = SURFACES[name];
    start = surface.start;
    rate = surface.rate;
    rates.set(RATES.indexOf(rate));
    ground = paint(context, surface);
    const [left, right, bottom, top] = [surface.left, surface.right, surface.bottom, surface.top].map((v) => fixed(v, 1));
    axes.textContent = `w₁ from ${left} to ${right} (to the right), w₂ from ${bottom} to ${top} (upwards)`;
    formula.textContent = `Loss: ${surface.formula}`;
    reset();
  }
  function moveStart([x, y]) {
    start = [clamp(x, surface.left, surface.right), clamp(y, surface.bottom, surface.top)];
    reset();
  }
  follow(
    picture,
    (x, y) => moveStart([
      surface.left + x * (surface.right - surface.left), surface.top - y * (surface.top - surface.bottom),
    ]),
    (right, down) => moveStart([start[0] + 0.1 * right, start[1] - 0.1 * down]),
    { hover: false },
  );
  const surfaces = Object.entries(SURFACES).map(([key, { name }]) => [key, name]);
  const one = button("Step", () => {
    if (timer !== null) stop();
    advance();
    finish();
  });
  container.append(
    element("div", { className: "controls" }, choice("Loss", surfaces, "long", choose), rates.label, momenta.label),
    element("div", { className: "controls" }, one, run, button("Reset", reset)),
    element("div", { className: "panel wide" }, picture, axes, formula),
    result,
    element("p", {}, "Dark disc: start, which you can move. Square: lowest point. From one contour to the next, the loss doubles."),
  );
  choose("long");
}
