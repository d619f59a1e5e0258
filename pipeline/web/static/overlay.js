// From one bit a region to one colour a voxel.
//
// In the server's files bit i of a voxel says that it lies in region i; the outermost region comes first. What is drawn
// is the innermost of the regions that are switched on; `outlines` draws their borders.

/**
 * The region that is seen at each value of the bits.
 * @param {boolean[]} shown which regions are switched on
 * @returns {Uint8Array} (256) 0 for none, else 1 + the region's bit
 */
export function innermost(shown) {
  const seen = new Uint8Array(256);
  for (let value = 0; value < 256; value++) {
    shown.forEach((on, bit) => {
      if (on && (value >> bit) & 1) seen[value] = bit + 1;
    });
  }
  return seen;
}

/**
 * Draw a volume of bits as indices into `colourTable`.
 * @param {Uint8Array} bits
 * @param {boolean[]} shown
 * @param {Uint8Array} out written; of the length of `bits`
 */
export function paint(bits, shown, out) {
  const seen = innermost(shown);
  for (let i = 0; i < bits.length; i++) out[i] = seen[bits[i]];
}

/** `#rrggbb` to [red, green, blue]. */
export function rgb(colour) {
  const value = Number.parseInt(String(colour).slice(1), 16) || 0;
  return [(value >> 16) & 255, (value >> 8) & 255, value & 255];
}

/** NiiVue's table of colours for the indices that `paint` writes. */
export function colourTable(colours, names) {
  const table = {R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""]};
  colours.forEach((colour, i) => {
    const [r, g, b] = rgb(colour);
    table.R.push(r);
    table.G.push(g);
    table.B.push(b);
    table.A.push(255);
    table.I.push(i + 1);
    table.labels.push(names[i]);
  });
  return table;
}
