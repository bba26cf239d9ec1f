// What the interactive figures are made of: elements, controls, and how a picture follows pointer and keyboard.

/** An HTML element with properties and children (elements or texts). Names with a hyphen, and role, are attributes. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

/** An SVG element with attributes and children. */
export function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function button(text, onClick) {
  const made = element("button", { type: "button", textContent: text });
  made.addEventListener("click", () => onClick(made));
  return made;
}

/** A label, a slider and the number that it is set to: `show` writes the number. onInput takes the slider's position. */
export function slider(text, { min, max, step, value, show = String }, onInput) {
  const input = element("input", { type: "range", min, max, step });
  const output = element("span", { className: "value" });
  const set = (position) => { // the slider itself takes the nearest multiple of its step
    input.value = position;
    output.textContent = show(position);
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", () => {
    set(input.valueAsNumber);
    onInput(input.valueAsNumber);
  });
  set(value);
  const label = element("label", { className: "slider" }, element("span", {}, text), input, output);
  return { label, input, set };
}

/** A label and a list to choose from; options is [[value, text], ...], and name what screen readers call the list. */
export function choice(text, options, value, onChange, name = text) {
  const select = element("select", { "aria-label": name }, ...options.map(([key, shown]) => element("option", { value: key }, shown)));
  select.value = value;
  select.addEventListener("change", () => onChange(select.value));
  return element("label", {}, element("span", {}, text), select);
}

/** A line that screen readers read aloud when it changes. */
export function status() {
  return element("p", { className: "result", role: "status" });
}

/** A picture that can be pointed at, and reached with the Tab key and the arrow keys. */
export function canvas(width, height, label) {
  return element("canvas", { width, height, tabIndex: 0, role: "application", "aria-label": label });
}

/** Call onPoint(x, y), from 0 to 1 across the picture, where mouse, pen or finger is; onArrow(right, down) for keys. */
export function follow(picture, onPoint, onArrow, { hover = true } = {}) {
  const point = (event) => {
    const box = picture.getBoundingClientRect();
    const inside = (share) => Math.min(Math.max(share, 0), 1 - 1e-9);
    onPoint(inside((event.clientX - box.left) / box.width), inside((event.clientY - box.top) / box.height));
  };
  picture.addEventListener("pointerdown", point);
  picture.addEventListener("pointermove", (event) => {
    if (hover || event.buttons) point(event);
  });
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  picture.addEventListener("keydown", (event) => {
    const arrow = arrows[event.key];
    if (!arrow || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault(); // else the page scrolls
    onArrow(...arrow);
  });
}

/** A number with at most `digits` decimals and a real minus sign. */
export function format(value, digits) {
  return String(Number(value.toFixed(digits))).replace("-", "−"); // -0 becomes 0
}

/** A number with exactly `digits` decimals and a real minus sign. */
export function fixed(value, digits) {
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
}

export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export const DARK = "#1b3a5c", ACCENT = "#d1662b", LIGHT = "#9db8d2"; // as in d2lcls/book/plots.py
