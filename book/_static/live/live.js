// The live page: takes a picture, shows what the network makes of it. Nothing leaves the browser.

import { LoadError, loadModel } from "./model.js";
import { BrokenImage } from "./preprocess.js";

const page = document.getElementById("live-classifier");
const part = (name) => page.querySelector(`[data-part="${name}"]`);
const address = (name) => new URL(page.dataset[name], document.baseURI).href;
const RUNS = 50;

let loading = null; // the promise of the model, once somebody has asked for it
let shown = null; // what `classify` said of the last picture
let asked = 0; // pictures so far: the answer to an earlier one, arriving late, is dropped

function say(text, failed = false) {
  part("status").textContent = text;
  part("status").classList.toggle("live-failed", failed);
}

const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(2) : ms.toFixed(0)} ms`;

/** The address of the model folder: the book's, or the one beside it that `?model=NAME` names. */
function folder() {
  const name = new URLSearchParams(location.search).get("model");
  if (name === null) return address("model");
  if (!/^[\w-]+$/.test(name)) {
    throw new LoadError(`${name} is not the name of a model folder: use letters, digits, - and _.`);
  }
  return new URL(`../${name}/`, address("model")).href;
}

async function model() {
  loading ??= loadModel(folder(), address("runtime"), (bytes) => {
    say(`Loading the network and its runtime: ${megabytes(bytes)} of ${megabytes(page.dataset.bytes)} MB.`);
  }).catch((error) => {
    loading = null; // the next picture tries again
    throw error;
  });
  return loading;
}

/** Classify one picture, a Blob, and show the answer. */
async function show(blob, name) {
  const turn = ++asked;
  part("run").disabled = true;
  try {
    const network = await model();
    if (turn !== asked) return;
    const answer = await network.classify(blob);
    if (turn !== asked) return;
    shown = { ...answer, network };
    draw(answer);
    const { name: best, probability } = answer.likeliest[0];
    say(`${name}: ${best}, ${percent(probability)}. The network took ${milliseconds(answer.network)}, `
      + `reading and scaling the picture ${milliseconds(answer.preparation)}.`);
    part("runs").textContent = "";
    part("run").disabled = false;
  } catch (error) {
    if (turn !== asked) return;
    part("answer").hidden = true;
    say(failure(error, name), true);
    if (!(error instanceof BrokenImage || error instanceof LoadError)) throw error; // into the browser's console
  }
}

function failure(error, name) {
  if (error instanceof BrokenImage) return `${name} cannot be used: ${error.message}. Choose a PNG or a JPEG.`;
  if (error instanceof LoadError) return `${error.message} Reload the page, or build the book again.`;
  return `Something unforeseen went wrong: ${error.message}`;
}

/** Show what the network sees and its likeliest classes. */
function draw({ likeliest, seen }) {
  const canvas = part("seen");
  canvas.width = seen.width;
  canvas.height = seen.height;
  const pixels = new ImageData(seen.width, seen.height);
  for (let from = 0, to = 0; from < seen.data.length; from += 3, to += 4) {
    pixels.data.set([...seen.data.subarray(from, from + 3), 255], to);
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  part("size").textContent = `${seen.width} × ${seen.height}`;
  part("top").replaceChildren(...likeliest.map(({ name, probability }) => {
    const row = document.createElement("li");
    const bar = document.createElement("span");
    bar.className = "live-bar";
    bar.style.setProperty("--share", probability);
    const label = document.createElement("span");
    label.textContent = name;
    const number = document.createElement("span");
    number.textContent = percent(probability);
    row.append(label, bar, number);
    return row;
  }));
  part("answer").hidden = false;
}

/** Run the network again and again on the last picture, and show the median. */
async function measure() {
  const { network, x } = shown;
  const times = [];
  for (let run = 0; run < RUNS; run++) {
    const begun = performance.now();
    await network.logits(x);
    times.push(performance.now() - begun);
  }
  times.sort((one, other) => one - other);
  const at = (share) => milliseconds(times[Math.round(share * (RUNS - 1))]);
  part("runs").textContent = `${RUNS} runs: median ${at(0.5)}, the middle half from ${at(0.25)} to ${at(0.75)}.`;
}

part("file").addEventListener("change", ({ target }) => {
  if (target.files.length) show(target.files[0], target.files[0].name);
});
part("file").addEventListener("click", ({ target }) => {
  target.value = ""; // so that the same file can be chosen again
});
for (const button of page.querySelectorAll("[data-sample]")) {
  button.addEventListener("click", async () => {
    const name = button.querySelector("img").alt;
    part("file").value = ""; // else its name would stand beside another picture's answer
    try {
      const response = await fetch(button.querySelector("img").src);
      if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
      await show(await response.blob(), name);
    } catch (error) {
      say(`The sample did not arrive (${error.message}).`, true);
    }
  });
}
part("drop").addEventListener("dragover", (event) => {
  event.preventDefault(); // else the browser opens the file in place of the page
  part("drop").classList.add("live-over");
});
part("drop").addEventListener("dragleave", () => part("drop").classList.remove("live-over"));
part("drop").addEventListener("drop", (event) => {
  event.preventDefault();
  part("drop").classList.remove("live-over");
  const file = event.dataTransfer.files[0];
  if (file) show(file, file.name);
  else say("That was no file. Drop a picture from a folder.", true);
});
part("run").addEventListener("click", measure);
part("controls").hidden = false;
say(`Choose a picture. With the first one your browser loads the network and its runtime, `
  + `${megabytes(page.dataset.bytes)} MB.`);
