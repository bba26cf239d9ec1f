// A model folder, as d2lcls writes it, run by ONNX Runtime Web.

import { normalise, readPicture, scaleAndCrop } from "./preprocess.js";

/** Something the page needs and did not get; the message is a sentence for the reader. */
export class LoadError extends Error {}

/**
 * Load a model folder and the runtime.
 * @param {string} folder - address of the model folder, ending in "/".
 * @param {string} runtime - address of ONNX Runtime Web's files, ending in "/".
 * @param {function(number): void} progress - gets the number of bytes that have come so far.
 * @returns {Promise<Model>}
 * @throws {LoadError} a file is missing or damaged, or the browser cannot run it.
 */
export async function loadModel(folder, runtime, progress = () => {}) {
  if (!("WebAssembly" in globalThis)) {
    throw new LoadError("This browser does not run WebAssembly, in which the network is computed.");
  }
  const manifest = readManifest(await fetchBytes(`${folder}manifest.json`, { cache: "no-cache" }));
  const checksum = manifest.files["model.onnx"];
  // With its checksum in the address, a model that a browser kept from an earlier visit is not taken for the new one.
  const graph = await fetchBytes(`${folder}model.onnx?${checksum.slice(0, 16)}`, {}, progress);
  if (globalThis.crypto?.subtle && await sha256(graph) !== checksum) { // browsers have it on https and localhost only
    throw new LoadError("The model is damaged: model.onnx is not the file that its manifest names.");
  }
  const wasm = await fetchBytes(`${runtime}ort-wasm-simd-threaded.wasm`, {}, (n) => progress(graph.length + n));
  let ort;
  try {
    ort = await import(`${runtime}ort.wasm.bundle.min.mjs`);
  } catch (error) {
    throw new LoadError(`ONNX Runtime Web could not be loaded (${error.message}).`);
  }
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = 1; // more of them need headers that a plain web server does not send
  ort.env.logLevel = "error";
  let session;
  try {
    session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
  } catch (error) {
    throw new LoadError(`ONNX Runtime Web could not start the model (${error.message}).`);
  }
  const model = new Model(manifest, session, ort.Tensor);
  await model.logits(new Float32Array(3 * manifest.preprocess.crop ** 2)); // the first run is slower
  return model;
}

function readManifest(bytes) {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    throw new LoadError(`The model is damaged: manifest.json is no JSON (${error.message}).`);
  }
}

/** A loaded model: what `d2lcls.deploy.Predictor` is in Python. */
export class Model {
  constructor(manifest, session, Tensor) {
    Object.assign(this, { manifest, session, Tensor });
  }

  /** The logits, Float32Array (K,), of an input that `normalise` made. */
  async logits(x) {
    const { crop } = this.manifest.preprocess;
    const input = new this.Tensor("float32", x, [1, 3, crop, crop]);
    const output = await this.session.run({ [this.manifest.input_name]: input });
    return output[this.session.outputNames[0]].data;
  }

  /**
   * Say what a picture shows.
   * @param {Blob} blob - an image file.
   * @param {number} top - how many classes.
   * @returns {Promise<object>} likeliest: list of {name, probability}; seen: the cropped picture; x: the network's
   *   input; logits; preparation and network: milliseconds.
   * @throws {BrokenImage} the file is no picture.
   */
  async classify(blob, top = 5) {
    const begun = performance.now();
    const seen = scaleAndCrop(await readPicture(blob), this.manifest.preprocess);
    const x = normalise(seen, this.manifest.preprocess);
    const prepared = performance.now();
    const logits = await this.logits(x);
    const network = performance.now() - prepared;
    const names = likeliest(logits, this.manifest.classes, top);
    return { likeliest: names, seen, x, logits, preparation: prepared - begun, network };
  }
}

/** The `top` likeliest classes of logits; equal ones in the classes' order. */
export function likeliest(logits, classes, top = 5) {
  const largest = Math.max(...logits);
  const exponentials = Array.from(logits, (logit) => Math.exp(logit - largest));
  const sum = exponentials.reduce((total, value) => total + value, 0);
  return classes
    .map((name, place) => ({ name, logit: logits[place], probability: exponentials[place] / sum }))
    .sort((one, other) => other.logit - one.logit)
    .slice(0, top);
}

async function fetchBytes(address, options, progress = () => {}) {
  const name = new URL(address, document.baseURI).pathname.split("/").pop();
  try {
    const response = await fetch(address, options);
    if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
    const parts = [];
    let size = 0;
    for (const reader = response.body.getReader(); ;) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      progress(size += value.length);
    }
    return new Uint8Array(await new Blob(parts).arrayBuffer());
  } catch (error) {
    throw new LoadError(`${name} did not arrive (${error.message}).`);
  }
}

async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
