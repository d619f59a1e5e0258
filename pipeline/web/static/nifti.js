// Just enough NIfTI-1 for the viewer's own files and the written mask: uint8, three axes, little-endian.

const HEADER = 348;
const UINT8 = 2;

/**
 * @typedef {Object} Volume
 * @property {[number, number, number]} dims voxels along each axis of the file
 * @property {Uint8Array} file the whole file, not compressed
 * @property {Uint8Array} data the voxels, first axis fastest: a part of `file`, so that writing here changes the file
 */

/** Undo gzip where there is any (a browser may already have undone it). */
export async function gunzip(content) {
  if (content[0] !== 0x1f || content[1] !== 0x8b) return content;
  return through(content, new DecompressionStream("gzip"));
}

export const gzip = content => through(content, new CompressionStream("gzip"));

async function through(content, stream) {
  return new Uint8Array(await new Response(new Blob([content]).stream().pipeThrough(stream)).arrayBuffer());
}

/**
 * @param {Uint8Array} content .nii or .nii.gz
 * @returns {Promise<Volume>}
 * @throws {Error} when it is none of the files described above
 */
export async function readVolume(content) {
  const file = await gunzip(content);
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (file.length < HEADER + 4 || view.getInt32(0, true) !== HEADER)
    throw new Error("This is no little-endian NIfTI-1 file.");
  const dims = [1, 2, 3].map(axis => Math.max(1, view.getInt16(40 + 2 * axis, true)));
  if (view.getInt16(70, true) !== UINT8)
    throw new Error(`The voxels are of type ${view.getInt16(70, true)}, not uint8.`);
  const start = Math.round(view.getFloat32(108, true)),
    count = dims[0] * dims[1] * dims[2];
  if (start < HEADER || file.length < start + count) throw new Error("The NIfTI file ends before its last voxel.");
  return {dims, file, data: file.subarray(start, start + count)};
}

/**
 * Copy a box out of a volume.
 * @param {Volume} volume
 * @param {number[]} offset the box's first voxel
 * @param {number[]} dims the box's size
 */
export function cut(volume, offset, dims) {
  const box = new Uint8Array(dims[0] * dims[1] * dims[2]);
  eachRow(volume, offset, dims, (from, to) => box.set(volume.data.subarray(from, from + dims[0]), to));
  return box;
}

/** Put a box back into a volume. */
export function paste(volume, box, offset, dims) {
  eachRow(volume, offset, dims, (from, to) => volume.data.set(box.subarray(to, to + dims[0]), from));
}

function eachRow(volume, offset, dims, use) {
  if (dims.some((n, axis) => offset[axis] < 0 || offset[axis] + n > volume.dims[axis])) {
    throw new Error("The shown part does not lie inside the mask.");
  }
  for (let k = 0; k < dims[2]; k++) {
    for (let j = 0; j < dims[1]; j++) {
      const row = (k + offset[2]) * volume.dims[1] + j + offset[1];
      use(row * volume.dims[0] + offset[0], (k * dims[1] + j) * dims[0]);
    }
  }
}
