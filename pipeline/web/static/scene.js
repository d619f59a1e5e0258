// The picture itself: NiiVue with one background, the prediction and the reference. It knows no controls.

import {fetchBytes} from "./api.js";
import {readVolume} from "./nifti.js";
import {drawOutlines} from "./outlines.js";
import {colourTable, paint} from "./overlay.js";

/** Where the planes lie on the canvas: [left, top, width, height] in shares of it. */
export const LAYOUTS = {
  four: {
    axial: [0, 0, 0.5, 0.5],
    coronal: [0.5, 0, 0.5, 0.5],
    sagittal: [0, 0.5, 0.5, 0.5],
    render: [0.5, 0.5, 0.5, 0.5],
  },
  axial: {axial: [0, 0, 1, 1]},
  coronal: {coronal: [0, 0, 1, 1]},
  sagittal: {sagittal: [0, 0, 1, 1]},
  render: {render: [0, 0, 1, 1]},
};

/** Of the outline of the brain that was cut out of a head. */
export const BRAIN_COLOUR = "#f4a6d7";

const GAP = 0.002;
let library = null;

/** NiiVue is 2.3 MB, so it is fetched when the first picture is shown. */
function loadLibrary() {
  library ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "static/niivue.umd.js";
    script.addEventListener("load", () => resolve(globalThis.niivue));
    script.addEventListener("error", () => {
      library = null;
      reject(new Error("The viewer's program could not be loaded; reload the page."));
    });
    document.head.append(script);
  });
  return library;
}

/**
 * @typedef {Object} Scene
 * @property {any} nv NiiVue
 * @property {Object} state what is shown: {modality, layout, shown: boolean[], side, opacity, outline, visible}
 */

/**
 * Show a result.
 * @param {HTMLCanvasElement} canvas inside an element of its own, which decides its size
 * @param {HTMLCanvasElement} lines over it, of the same size
 * @param {Object} view `result.view` of the API
 * @param {string} layout one of LAYOUTS
 * @param {{onPlace: (place: {mm: number[], value: number}) => void}} listeners
 * @returns {Promise<Scene>}
 * @throws {Error} no WebGL 2, or a file that cannot be had
 */
export async function openScene(canvas, lines, view, layout, listeners) {
  const niivue = await loadLibrary();
  const nv = new niivue.Niivue({
    isRadiologicalConvention: true,
    sagittalNoseLeft: true,
    show3Dcrosshair: true,
    isColorbar: false,
    dragAndDropEnabled: false,
    loadingText: "",
    logLevel: "error",
    backColor: [0, 0, 0, 1],
    crosshairColor: [0.52, 0.8, 0.88, 1],
    crosshairWidth: 0.6,
    crosshairWidthUnit: "mm",
    crosshairGap: 7,
    fontColor: [0.82, 0.86, 0.9, 1],
    clipPlaneHotKey: "",
    cycleClipPlaneHotKey: "",
    viewModeHotKey: "",
    dragMode: niivue.DRAG_MODE.none,
    dragModePrimary: niivue.DRAG_MODE.crosshair,
    fontMinPx: 11,
    fontSizeScaling: 0.35,
    isOrientCube: false,
  });
  await nv.attachToCanvas(canvas, false);
  if (!nv.gl) throw new Error("This browser has no WebGL 2, which the viewer needs.");
  const modality = ["t1c", "flair", "t2", "t1"].find(name => view.background[name]) ?? Object.keys(view.background)[0];
  const scene = {
    niivue,
    nv,
    view,
    backgrounds: {},
    overlays: {},
    windows: structuredClone(view.windows ?? {}),
    state: {
      modality,
      layout,
      shown: view.regions.map(() => true),
      side: "prediction",
      opacity: 0.45,
      outline: false,
      visible: true,
      brain: typeof view.brain === "number",
    },
  };
  nv.onLocationChange = place =>
    listeners.onPlace({mm: Array.from(place.mm).slice(0, 3), value: place.values?.[0]?.value});
  nv.addVolume(await background(scene, modality));
  for (const side of ["prediction", "reference"]) if (view[side]) await addOverlay(scene, side);
  drawTogether(scene, lines);
  setLayout(scene, layout);
  redraw(scene);
  turnToTumour(scene);
  jump(scene, view.centre_mm);
  return scene;
}

/** Free the graphics memory: browsers keep only a few WebGL contexts. */
export function closeScene(scene) {
  scene.nv.cleanup?.();
  scene.nv.gl.getExtension("WEBGL_lose_context")?.loseContext();
}

async function background(scene, modality) {
  const [low, high] = scene.windows[modality] ?? [];
  scene.backgrounds[modality] ??= await scene.niivue.NVImage.loadFromUrl({
    url: (await fetchBytes(scene.view.background[modality])).buffer,
    name: `${modality}.nii.gz`,
    colormap: "gray",
    ...(high > low ? {cal_min: low, cal_max: high} : {}),
  });
  return scene.backgrounds[modality];
}

async function addOverlay(scene, side) {
  const content = await fetchBytes(scene.view[side]);
  const {data} = await readVolume(content);
  const image = await scene.niivue.NVImage.loadFromUrl({url: content.buffer, name: `${side}.nii.gz`, opacity: 0});
  image.setColormapLabel(colourTable(scene.view.colours, scene.view.regions));
  scene.nv.addVolume(image);
  // NiiVue's array is painted over, so the bits are kept apart.
  scene.overlays[side] = {bits: data.slice(), image};
}

/** Bring the overlays up to `scene.state`. Of two sides, the prediction is filled and the reference a dashed line. */
export function redraw(scene) {
  const {shown, side, opacity, visible} = scene.state;
  for (const [name, overlay] of Object.entries(scene.overlays)) {
    const isFilled = visible && !scene.editing && name === (side === "both" ? "prediction" : side);
    if (isFilled && overlay.painted !== String(shown)) {
      paint(overlay.bits, shown, overlay.image.img);
      overlay.painted = String(shown);
    }
    overlay.image.opacity = isFilled ? opacity : 0;
  }
  scene.nv.updateGLVolume();
}

/** Everything that NiiVue draws comes through here: the lines are drawn with it. */
function drawTogether(scene, lines) {
  const {nv} = scene,
    draw = nv.drawScene.bind(nv),
    pen = lines.getContext("2d");
  nv.drawScene = () => {
    const {outline, side, visible, shown, brain} = scene.state;
    const isSeen = visible && !scene.editing;
    const shader = nv.sliceMMShader;
    // As lines, the planes show no area; the 3D view has a shader of its own and keeps it.
    shader.use(nv.gl);
    nv.gl.uniform1f(shader.uniforms.overlays, outline ? 0 : nv.overlays.length);
    const drawn = draw();
    const sides = isSeen
      ? Object.entries(scene.overlays).filter(([name]) =>
          outline ? side === name || side === "both" : side === "both" && name === "reference",
        )
      : [];
    const borders = shown.flatMap((on, bit) => (on ? [[bit, scene.view.colours[bit]]] : []));
    const layers = sides.map(([name, {bits, image}]) => ({
      bits,
      image,
      dashed: name === "reference",
      lines: borders,
    }));
    const {prediction} = scene.overlays;
    // Below the regions' own lines, and not switched off with them: it belongs to the picture.
    if (brain && !scene.editing)
      layers.unshift({...prediction, dashed: false, lines: [[scene.view.brain, BRAIN_COLOUR]]});
    drawOutlines(pen, nv, layers);
    return drawn;
  };
}

/** Change the picture under the overlay; the crosshair stays where it is. */
export async function setBackground(scene, modality) {
  const {nv} = scene;
  const image = await background(scene, modality);
  scene.state.modality = modality;
  const [low, high] = windowOf(scene);
  image.cal_min = low;
  image.cal_max = high;
  nv.volumes = [image, ...nv.volumes.slice(1)];
  nv.setVolume(image, 0);
  nv.createOnLocationChange();
}

/** The shown modality's [low, high], in the image's own units. */
export function windowOf(scene) {
  const {modality} = scene.state;
  const image = scene.backgrounds[modality];
  return (scene.windows[modality] ??= [image.cal_min, image.cal_max]);
}

export function setWindow(scene, low, high) {
  const image = scene.backgrounds[scene.state.modality];
  const least = (image.global_max - image.global_min || 1) / 1000;
  scene.windows[scene.state.modality] = [low, Math.max(high, low + least)];
  [image.cal_min, image.cal_max] = scene.windows[scene.state.modality];
  scene.nv.refreshLayers(image, 0);
  scene.nv.drawScene();
}

export function resetWindow(scene) {
  const image = scene.backgrounds[scene.state.modality];
  const [low, high] = scene.view.windows?.[scene.state.modality] ?? [image.robust_min, image.robust_max];
  setWindow(scene, low, high);
}

/** One of LAYOUTS. */
export function setLayout(scene, layout) {
  const {SLICE_TYPE} = scene.niivue;
  const types = {
    axial: SLICE_TYPE.AXIAL,
    coronal: SLICE_TYPE.CORONAL,
    sagittal: SLICE_TYPE.SAGITTAL,
    render: SLICE_TYPE.RENDER,
  };
  scene.state.layout = layout;
  scene.nv.opts.crosshairWidth = layout === "four" ? 0.6 : 0.35;
  if (scene.nv.crosshairs3D) scene.nv.crosshairs3D.mm[0] = NaN;
  scene.nv.setCustomLayout(
    Object.entries(LAYOUTS[layout]).map(([plane, [left, top, width, height]]) => ({
      sliceType: types[plane],
      position: [
        left ? left + GAP : 0,
        top ? top + GAP : 0,
        width < 1 ? width - GAP : 1,
        height < 1 ? height - GAP : 1,
      ],
    })),
  );
}

/** Put the crosshair at a place in mm (RAS+). */
export function jump(scene, mm) {
  const {nv} = scene;
  // Forced: without it NiiVue takes the axes of an oblique image for those of the world.
  nv.scene.crosshairPos = nv.mm2frac(mm, 0, true);
  nv.createOnLocationChange();
  nv.drawScene();
}

/** Move the crosshair by voxels towards right, front and top. */
export function step(scene, right, front, top) {
  scene.nv.moveCrosshairInVox(right, front, top);
}

/** Where in its file's array an image has the voxel at a place in mm; undefined outside of it. */
function indexAt(image, mm) {
  const [x, y, z] = Array.from(image.mm2vox(mm)).map(Math.round);
  const [n1, n2, n3] = image.dimsRAS.slice(1, 4);
  if (x < 0 || y < 0 || z < 0 || x >= n1 || y >= n2 || z >= n3) return undefined;
  const {img2RASstart: from, img2RASstep: by} = image;
  return from[0] + from[1] + from[2] + x * by[0] + y * by[1] + z * by[2];
}

/** The regions at a place in mm, of the side that is shown. */
export function regionsAt(scene, mm) {
  const overlay = scene.overlays[scene.state.side === "reference" ? "reference" : "prediction"];
  const bits = overlay?.bits[indexAt(overlay.image, mm)] ?? 0;
  return scene.view.regions.filter((_, bit) => (bits >> bit) & 1);
}

/** [i, j, k] in the mask's own array of the voxel at a place in mm; null outside of what is shown. */
export function voxelAt(scene, mm) {
  const {image} = scene.overlays.prediction,
    [n1, n2] = image.hdr.dims.slice(1, 3),
    index = indexAt(image, mm);
  if (index === undefined) return null;
  const shown = [index % n1, Math.floor(index / n1) % n2, Math.floor(index / (n1 * n2))];
  return shown.map((value, axis) => value + scene.view.offset[axis]);
}

/** The middle in mm of a voxel of the mask's own array. */
export function placeOfVoxel(scene, voxel) {
  const shown = voxel.map((value, axis) => value - scene.view.offset[axis]);
  return scene.overlays.prediction.image.hdr.affine
    .slice(0, 3)
    .map(row => row[0] * shown[0] + row[1] * shown[1] + row[2] * shown[2] + row[3]);
}

/** The axis of the mask's array (0, 1 or 2) along which each of the patient's axes runs: right, front, top. */
export function arrayAxes(scene) {
  return Array.from(scene.overlays.prediction.image.permRAS).map(axis => Math.abs(axis) - 1);
}

/** The 3D view from the side of the head on which the tumour lies. */
function turnToTumour(scene) {
  const isRight = scene.nv.mm2frac(scene.view.centre_mm, 0, true)[0] > 0.5;
  scene.nv.scene.renderAzimuth = isRight ? 250 : 110;
  scene.nv.scene.renderElevation = 10;
}

/** Back to where it began: zoom, shift, turn and the first lesion. */
export function resetView(scene) {
  scene.nv.scene.pan2Dxyzmm = [0, 0, 0, 1];
  scene.nv.scene.volScaleMultiplier = 1;
  turnToTumour(scene);
  jump(scene, scene.view.centre_mm);
}
