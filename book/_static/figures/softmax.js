// Logits of four classes, their softmax, the cross-entropy and its gradient.

import { ACCENT, DARK, button, clamp, element, fixed, slider, status, svg } from "./parts.js";

const CLASSES = ["cat", "dog", "ship", "truck"];
const START = [2, 1, 0.1, -1];
const LIMIT = 6, WIDTH = 100; // of a logit, and of a bar that stands for 1

/** Probabilities of logits. Subtracting the largest changes nothing and keeps exp from overflowing. */
export function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - largest));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}

/** Cross-entropy in nats for the true class, from the logits, and its gradient for each logit. */
export function crossEntropy(logits, label) {
  const largest = Math.max(...logits);
  const total = logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0);
  const gradient = softmax(logits).map((probability, index) => probability - (index === label ? 1 : 0));
  return { loss: Math.log(total) - (logits[label] - largest), gradient };
}

/** A bar that `set(value)` makes as long as value: to the right from 0, in dark; below 0 to the left, in orange. */
function bar(from) {
  const zero = from < 0 ? WIDTH : 0;
  const rect = svg("rect", { y: 3, height: 14 });
  const picture = svg(
    "svg", { viewBox: `0 0 ${WIDTH + zero} 20`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { width: WIDTH + zero, height: 20, fill: "#eef3f8" }), rect,
    svg("line", { x1: zero, x2: zero, y1: 0, y2: 20, stroke: "#444", "vector-effect": "non-scaling-stroke" }),
  );
  const set = (value) => {
    rect.setAttribute("x", zero + Math.min(value, 0) * WIDTH);
    rect.setAttribute("width", Math.abs(value) * WIDTH);
    rect.setAttribute("fill", value < 0 ? ACCENT : DARK);
  };
  return { picture, set };
}

export function draw(container) {
  let logits = [...START];
  let label = 0;
  const group = `true-class-${Math.random()}`; // a name of its own for the radio buttons of each figure
  const result = status();

  const rows = CLASSES.map((name, index) => {
    const radio = element("input", { type: "radio", name: group, checked: index === label });
    radio.addEventListener("change", () => {
      label = index;
      show();
    });
    const control = slider("logit z", {
      min: -LIMIT, max: LIMIT, step: 0.1, value: logits[index], show: (value) => fixed(value, 2),
    }, (value) => {
      logits[index] = value;
      show();
    });
    control.input.setAttribute("aria-label", `Logit of ${name}`);
    const [probability, gradient] = [bar(0), bar(-1)];
    const numbers = [element("span"), element("span")];
    const row = element(
      "div", { className: "class", role: "group", "aria-label": name },
      element("label", { className: "box" }, radio, name),
      control.label,
      element("span", { className: "bar" }, "p", probability.picture, numbers[0]),
      element("span", { className: "bar" }, "p − y", gradient.picture, numbers[1]),
    );
    return { row, control, probability, gradient, numbers };
  });

  function show() {
    const probabilities = softmax(logits);
    const { loss, gradient } = crossEntropy(logits, label);
    rows.forEach((row, index) => {
      row.probability.set(probabilities[index]);
      row.gradient.set(gradient[index]);
      row.numbers[0].textContent = fixed(probabilities[index], 3);
      row.numbers[1].textContent = fixed(gradient[index], 3);
    });
    result.textContent = `True class ${CLASSES[label]}: p = ${fixed(probabilities[label], 3)}, `
      + `cross-entropy −ln p = ${fixed(loss, 3)} nats.`;
  }
  function set(values) {
    logits = values.map((value) => clamp(value, -LIMIT, LIMIT));
    rows.forEach(({ control }, index) => control.set(logits[index]));
    show();
  }

  container.append(
    element("p", {}, "Choose the true class (round button) and move the logits."),
    ...rows.map(({ row }) => row),
    result,
    element(
      "div", { className: "controls" },
      button("Subtract the gradient", () => set(logits.map((z, index) => z - crossEntropy(logits, label).gradient[index]))),
      button("Reset", () => set(START)),
    ),
  );
  show();
}
