// From a picture to a network's input, step by step what d2lcls.data.preprocess.Preprocess does in Python.

const MAX_PIXELS = 100_000_000; // as in d2lcls.data.images
const STRIP = 512; // rows of a picture read at a time: large canvases stay blank in some browsers
const FRACTION_BITS = 22; // of a weight, as in Pillow

/** A picture that cannot be used; the message says why. */
export class BrokenImage extends Error {}

/**
 * Decode a picture: upright, transparent pixels on white, colour profiles ignored.
 * @param {Blob} blob - an image file.
 * @returns {Promise<{data: Uint8Array, width: number, height: number}>} pixels R, G, B, row by row.
 * @throws {BrokenImage} the file is no image that the browser reads, or is too large.
 */
export async function readPicture(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  } catch {
    throw new BrokenImage("your browser cannot read it as a picture");
  }
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) {
    throw new BrokenImage(`${width} × ${height} pixels are more than the ${MAX_PIXELS / 1e6} million that are read`);
  }
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = Math.min(STRIP, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  const data = new Uint8Array(3 * width * height);
  for (let top = 0, to = 0; top < height; top += STRIP) {
    const rows = Math.min(STRIP, height - top);
    context.fillRect(0, 0, width, rows);
    context.drawImage(bitmap, 0, -top);
    const rgba = context.getImageData(0, 0, width, rows).data;
    for (let from = 0; from < rgba.length; from += 4) {
      data[to++] = rgba[from];
      data[to++] = rgba[from + 1];
      data[to++] = rgba[from + 2];
    }
  }
  bitmap.close();
  return { data, width, height };
}

const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: {
    support: 2,
    weight: (x) => {
      const d = Math.abs(x);
      return d < 1 ? (1.5 * d - 2.5) * d * d + 1 : d < 2 ? (((d - 5) * d + 8) * d - 4) * -0.5 : 0;
    },
  },
};

/** Whole-number weights of the old pixels in each new one: a list of {first, weights}. */
function coefficients(oldSize, newSize, filter) {
  const scale = oldSize / newSize;
  const spread = Math.max(scale, 1); // a new pixel averages over all the old ones that it covers
  return Array.from({ length: newSize }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - filter.support * spread + 0.5));
    const end = Math.min(oldSize, Math.trunc(centre + filter.support * spread + 0.5));
    const weights = [];
    for (let x = first; x < end; x++) weights.push(filter.weight((x - centre + 0.5) * (1 / spread)));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { first, weights: weights.map((weight) => roundAway((weight / sum) * 2 ** FRACTION_BITS)) };
  });
}

function roundAway(x) {
  return Math.trunc(x < 0 ? x - 0.5 : x + 0.5);
}

/** Scale the rows (or, with `along` "y", the columns) of a picture. */
function resizeAlong({ data, width, height }, size, filter, along) {
  const vertical = along === "y";
  const made = vertical ? { width, height: size } : { width: size, height };
  const out = new Uint8ClampedArray(3 * made.width * made.height);
  const step = vertical ? 3 * width : 3; // from one pixel to the next that is averaged
  coefficients(vertical ? height : width, size, filter).forEach(({ first, weights }, place) => {
    for (let line = 0; line < (vertical ? width : height); line++) {
      let from = first * step + line * (vertical ? 3 : 3 * width);
      let red = 2 ** (FRACTION_BITS - 1), green = red, blue = red; // a half, so that cutting off rounds
      for (const weight of weights) {
        red += weight * data[from];
        green += weight * data[from + 1];
        blue += weight * data[from + 2];
        from += step;
      }
      const to = vertical ? 3 * (place * width + line) : 3 * (line * size + place);
      out[to] = red >> FRACTION_BITS; // the array clamps to 0..255
      out[to + 1] = green >> FRACTION_BITS;
      out[to + 2] = blue >> FRACTION_BITS;
    }
  });
  return { data: out, ...made };
}

/**
 * Scale a picture as Pillow 13 does, rounded to whole levels after each direction: rows first, but columns first where
 * the height loses more than twice as many pixels as the width.
 * @param {{data, width, height}} picture - as `readPicture` returns it.
 * @param {string} interpolation - "bilinear" or "bicubic".
 */
export function resize(picture, width, height, interpolation) {
  const filter = FILTERS[interpolation];
  const lost = { x: picture.width - width, y: picture.height - height };
  for (const along of lost.y > Math.max(0, 2 * lost.x) ? ["y", "x"] : ["x", "y"]) {
    if (lost[along]) picture = resizeAlong(picture, along === "x" ? width : height, filter, along);
  }
  return picture;
}

/** Round to the nearest whole number, halves to the even one, as Python's `round`. */
function roundHalfEven(x) {
  const below = Math.floor(x);
  return x - below === 0.5 ? below + (below % 2) : Math.round(x);
}

/**
 * Scale the shorter side to `preprocess.resize` and cut out the centre.
 * @param {{data, width, height}} picture - as `readPicture` returns it.
 * @param {object} preprocess - that of the model's manifest.
 * @returns {{data, width, height}} crop × crop pixels.
 * @throws {BrokenImage} the picture is so narrow that it would grow beyond `MAX_PIXELS`.
 */
export function scaleAndCrop(picture, preprocess) {
  const { resize: shorter, crop } = preprocess;
  const longer = (long, short) => Math.trunc((shorter * long) / short);
  const [width, height] = picture.width <= picture.height
    ? [shorter, longer(picture.height, picture.width)]
    : [longer(picture.width, picture.height), shorter];
  if (width * height > MAX_PIXELS) {
    throw new BrokenImage(`${picture.width} × ${picture.height} pixels is too narrow a picture`);
  }
  const scaled = resize(picture, width, height, preprocess.interpolation);
  const left = roundHalfEven((width - crop) / 2), top = roundHalfEven((height - crop) / 2);
  const data = new Uint8Array(3 * crop * crop);
  for (let row = 0; row < crop; row++) {
    const from = 3 * ((top + row) * width + left);
    data.set(scaled.data.subarray(from, from + 3 * crop), 3 * crop * row);
  }
  return { data, width: crop, height: crop };
}

/**
 * Turn pixels R, G, B into the network's input: planes of red, green and blue, mean subtracted, divided by std.
 * @returns {Float32Array} of shape (1, 3, H, W).
 */
export function normalise({ data, width, height }, { mean, std }) {
  const plane = width * height;
  const x = new Float32Array(3 * plane);
  for (let colour = 0; colour < 3; colour++) {
    const scale = Math.fround(1 / (255 * std[colour])), shift = Math.fround(-mean[colour] / std[colour]);
    for (let pixel = 0; pixel < plane; pixel++) {
      x[colour * plane + pixel] = Math.fround(Math.fround(data[3 * pixel + colour] * scale) + shift);
    }
  }
  return x;
}
