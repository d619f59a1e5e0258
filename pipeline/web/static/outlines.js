// The borders of the regions as thin lines over the three planes, along the edges of the voxels; NiiVue can only fill.

const DASHES = [6, 4];
/** Axes (of the patient: right, front, top) that run across and up in NiiVue's planes 0, 1 and 2. */
const PLANES = [
  {name: "axial", across: 0, up: 1, through: 2},
  {name: "coronal", across: 0, up: 2, through: 1},
  {name: "sagittal", across: 1, up: 2, through: 0},
];

/**
 * Draw the lines that belong to what NiiVue shows now.
 * @param {CanvasRenderingContext2D} pen on a canvas that lies over NiiVue's
 * @param {any} nv NiiVue
 * @param {Array<{bits: Uint8Array, image: any, dashed: boolean, lines: Array<[number, string]>}>} sides each line is a
 *   bit and its colour; nothing is drawn for an empty list
 */
export function drawOutlines(pen, nv, sides) {
  const {canvas} = pen;
  if (canvas.width !== nv.canvas.width || canvas.height !== nv.canvas.height) {
    canvas.width = nv.canvas.width;
    canvas.height = nv.canvas.height;
  }
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (!sides.length) return;
  const scale = nv.uiData.dpr || 1;
  pen.lineJoin = "round";
  for (const tile of nv.screenSlices) {
    const plane = PLANES[tile.axCorSag];
    if (!plane) continue;
    const [left, top, width, height] = tile.leftTopWidthHeight;
    pen.save();
    pen.beginPath();
    pen.rect(left, top, width, height);
    pen.clip();
    for (const {bits, image, dashed, lines} of sides) {
      pen.setLineDash(dashed ? DASHES.map(length => length * scale) : []);
      for (const [bit, colour] of lines) {
        const line = path(loops(slice(bits, image, plane, tile.sliceFrac, bit)), place(nv, image, plane, tile));
        // A dark edge, so that a line is seen on a white brain and on a fill of its own colour.
        pen.strokeStyle = "rgb(0 0 0 / 60%)";
        pen.lineWidth = 3.25 * scale;
        pen.stroke(line);
        pen.strokeStyle = colour;
        pen.lineWidth = 1.75 * scale;
        pen.stroke(line);
      }
    }
    pen.restore();
  }
}

/** One plane of one region, in the patient's directions: {inside(x, y), n1, n2}. */
function slice(bits, image, {across, up, through}, share, bit) {
  const dims = image.dimsRAS.slice(1, 4),
    {img2RASstart: start, img2RASstep: by} = image;
  const depth = Math.min(dims[through] - 1, Math.max(0, Math.floor(share * dims[through])));
  const first = start[0] + start[1] + start[2] + depth * by[through];
  const n1 = dims[across],
    n2 = dims[up],
    mask = 1 << bit;
  const inside = (x, y) =>
    x >= 0 && y >= 0 && x < n1 && y < n2 && (bits[first + x * by[across] + y * by[up]] & mask) !== 0;
  return {inside, n1, n2};
}

/**
 * The borders of a mask as closed lines along the edges of its pixels.
 * @returns {Array<Array<[number, number]>>} corners in pixels; 0 is the outer edge of the first pixel
 */
export function loops({inside, n1, n2}) {
  const wide = n1 + 1,
    from = new Map();
  const edge = (x1, y1, x2, y2) => {
    const start = y1 * wide + x1,
      end = y2 * wide + x2;
    if (from.has(start)) from.get(start).push(end);
    else from.set(start, [end]);
  };
  for (let y = 0; y < n2; y++) {
    for (let x = 0; x < n1; x++) {
      if (!inside(x, y)) continue;
      // The inside lies always on the same hand, so that each edge ends where the next one begins.
      if (!inside(x, y - 1)) edge(x, y, x + 1, y);
      if (!inside(x + 1, y)) edge(x + 1, y, x + 1, y + 1);
      if (!inside(x, y + 1)) edge(x + 1, y + 1, x, y + 1);
      if (!inside(x - 1, y)) edge(x, y + 1, x, y);
    }
  }
  const lines = [];
  for (const [start, ends] of from) {
    while (ends.length) {
      const line = [[start % wide, Math.floor(start / wide)]];
      for (let at = ends.pop(); ; at = from.get(at).pop()) {
        line.push([at % wide, Math.floor(at / wide)]);
        if (at === start) break;
      }
      lines.push(line);
    }
  }
  return lines;
}

/** From corners of voxels to pixels of the canvas. */
function place(nv, image, {across, up}, {leftTopWidthHeight: [left, top, width, height], leftTopMM, fovMM}) {
  const toMM = nv.volumes[0].frac2mmOrtho,
    dims = image.dimsRAS.slice(1, 4);
  const along = (axis, index) => toMM[axis * 5] * (index / dims[axis]) + toMM[12 + axis];
  return ([x, y]) => [
    left + ((along(across, x) - leftTopMM[0]) / fovMM[0]) * width,
    top + (1 - (along(up, y) - leftTopMM[1]) / fovMM[1]) * height,
  ];
}

function path(lines, toCanvas) {
  const drawn = new Path2D();
  for (const line of lines) {
    line.forEach((corner, i) => (i ? drawn.lineTo(...toCanvas(corner)) : drawn.moveTo(...toCanvas(corner))));
    drawn.closePath();
  }
  return drawn;
}
