// The viewer: the canvas with its labels, the controls around it, the mouse and the keys.

import {el, fill, segmented, announce, swatch} from "./dom.js";
import {digitsFor, fixed, isNumber, listed, MODALITIES, regionName, roleName} from "./format.js";
import * as scenes from "./scene.js";
import {showWindow, windowFields, wireMouse} from "./windowing.js";

const LAYOUT_NAMES = {four: "All", axial: "Axial", coronal: "Coronal", sagittal: "Sagittal", render: "3D"};
const PLANE_NAMES = {axial: "Axial", coronal: "Coronal", sagittal: "Sagittal", render: "3D"};
const SIDES = {prediction: "Prediction", reference: "Reference", both: "Both"};
const AXES = {axial: 2, coronal: 1, sagittal: 0};

/** The scene on the page, or null: for the shortcuts, and for whoever tests the page. */
export let current = null;

/**
 * @typedef {Object} Viewer
 * @property {HTMLElement} element
 * @property {scenes.Scene} scene
 * @property {HTMLElement} overlayControls opacity, style and side: for the panel beside the picture
 * @property {(...children: Node[]) => HTMLElement} whenReady a box whose controls work once the pictures are there
 * @property {(bit: number, on: boolean) => void} showRegion
 * @property {(place: {mm?: number[], voxel?: number[]}, what: string) => void} jump to mm or a voxel of the mask
 */

/**
 * Build the viewer of a finished case. The canvas must be in the page before `start` is called.
 * @param {Object} result of the API
 * @param {string} name the patient's name, for the canvas
 */
export function makeViewer(result, name) {
  const view = result.view;
  const canvas = el("canvas", {
    tabIndex: 0,
    role: "img",
    "aria-label":
      `MRI of ${name} with the tumour's regions as colours. ` +
      "Arrow keys move the crosshair, page up and page down change the axial slice.",
  });
  const lines = el("canvas.lines", {"aria-hidden": "true"});
  const labels = el("div.plane-labels", {"aria-hidden": "true"});
  const stage = el("div.stage", {}, canvas, lines, labels);
  const note = el("p.stage-note", {role: "status"}, "Loading the viewer…");
  // Without a voxel size the other planes are strips of the slices' edges.
  const hasSpacing = result.spacing_known !== false;
  const layout = hasSpacing ? "four" : "axial";
  const viewer = {view, hasSpacing, layout, canvas, lines, stage, labels, note, tool: "crosshair", place: null};
  Object.assign(viewer, {result, listeners: [], waiting: []});
  viewer.whenReady = (...children) => waitingBox(viewer, "fieldset", ...children);
  viewer.bar = toolbar(viewer);
  viewer.readout = el("output.readout", {"aria-label": "Crosshair"});
  viewer.windowing = windowFields(viewer);
  viewer.secondBar = waitingBox(viewer, "fieldset.toolbar", viewer.tools, viewer.windowing);
  viewer.overlayControls = overlayControls(viewer);
  viewer.element = el(
    "section.viewer",
    {"aria-label": "Viewer"},
    viewer.bar,
    viewer.secondBar,
    el("div.stage-box", {}, stage, note),
    viewer.readout,
    el(
      "p.convention",
      {},
      el("strong", {}, hasSpacing ? "Radiological convention: " : "Radiological convention, assumed: "),
      hasSpacing
        ? "the patient’s left is on the right of the picture. "
        : "the files do not say which side is the patient’s left; it is taken to be on the right of the picture. ",
      el(
        "span.quiet-text",
        {},
        "Click to move the crosshair, scroll to change slices, drag with the right button to set the window; " +
          "? lists the keys.",
      ),
    ),
  );
  viewer.start = () => start(viewer);
  viewer.close = () => close(viewer);
  viewer.showRegion = (bit, on) => {
    viewer.scene.state.shown[bit] = on;
    change(viewer, {});
  };
  viewer.jump = ({mm, voxel}, what) => {
    scenes.jump(viewer.scene, voxel ? scenes.placeOfVoxel(viewer.scene, voxel) : mm);
    announce(`Crosshair at ${what}`);
  };
  viewer.onChange = listener => viewer.listeners.push(listener);
  return viewer;
}

async function start(viewer) {
  try {
    viewer.scene = await scenes.openScene(viewer.canvas, viewer.lines, viewer.view, viewer.layout, {
      onPlace: place => showPlace(viewer, place),
    });
  } catch (error) {
    const rest = "The files below can still be downloaded.";
    viewer.note.textContent = `The pictures cannot be shown here: ${error.message} ${rest}`;
    viewer.element.dataset.state = "failed";
    return;
  }
  if (!viewer.canvas.isConnected) return scenes.closeScene(viewer.scene);
  current = viewer;
  viewer.note.remove();
  wireMouse(viewer);
  setTool(viewer, "crosshair");
  for (const kind of ["keydown", "keyup"]) {
    // NiiVue has keys of its own that nobody has been told of.
    viewer.stage.addEventListener(kind, event => event.stopPropagation(), {capture: true});
  }
  labelPlanes(viewer);
  scenes.jump(viewer.scene, viewer.view.centre_mm);
  showWindow(viewer);
  for (const box of viewer.waiting) box.disabled = false;
  viewer.element.dataset.state = "ready";
}

/** A fieldset of controls that need the scene: switched off until it is open. */
function waitingBox(viewer, tag, ...children) {
  const box = el(tag, {disabled: true}, ...children);
  viewer.waiting.push(box);
  return box;
}

function close(viewer) {
  if (current === viewer) current = null;
  if (viewer.scene) scenes.closeScene(viewer.scene);
}

/** Set some of the scene's state, draw, and tell the controls. */
export function change(viewer, changes) {
  Object.assign(viewer.scene.state, changes);
  scenes.redraw(viewer.scene);
  if (viewer.place) showPlace(viewer, viewer.place);
  for (const listener of viewer.listeners) listener(viewer.scene.state);
}

function toolbar(viewer) {
  const layouts = Object.entries(LAYOUT_NAMES).map(([value, text]) => ({value, text}));
  const names = [
    ...MODALITIES.filter(name => viewer.view.background[name]),
    ...Object.keys(viewer.view.background).filter(name => !MODALITIES.includes(name)),
  ];
  const first = ["t1c", "flair", "t2", "t1"].find(name => names.includes(name)) ?? names[0];
  viewer.layouts = segmented("Views", layouts, viewer.layout, value => setLayout(viewer, value));
  viewer.backgrounds = segmented(
    "Background",
    names.map(value => ({value, text: roleName(value)})),
    first,
    value => setBackground(viewer, value),
  );
  viewer.tools = segmented(
    "Drag with the left button",
    [
      {value: "crosshair", text: "Crosshair"},
      {value: "window", text: "Window", title: "Drag right for more width, up for a higher level"},
      {value: "pan", text: "Pan", title: "Drag to move, scroll to zoom"},
    ],
    "crosshair",
    value => setTool(viewer, value),
  );
  return waitingBox(viewer, "fieldset.toolbar", viewer.layouts, viewer.backgrounds);
}

export function setLayout(viewer, layout) {
  viewer.layouts.choose(layout);
  scenes.setLayout(viewer.scene, layout);
  labelPlanes(viewer);
  announce(LAYOUT_NAMES[layout]);
}

export async function setBackground(viewer, modality) {
  viewer.backgrounds.choose(modality);
  try {
    await scenes.setBackground(viewer.scene, modality);
  } catch (error) {
    announce(error.message);
    return;
  }
  showWindow(viewer);
  announce(`${roleName(modality)} shown`);
}

export function nextBackground(viewer) {
  const names = [...viewer.backgrounds.querySelectorAll("input")].map(input => input.value);
  return setBackground(viewer, names[(names.indexOf(viewer.scene.state.modality) + 1) % names.length]);
}

export function setTool(viewer, tool) {
  const {DRAG_MODE} = viewer.scene.niivue;
  viewer.tool = tool;
  viewer.tools.choose(tool);
  const left = {crosshair: DRAG_MODE.crosshair, window: DRAG_MODE.none, pan: DRAG_MODE.pan}[tool];
  viewer.scene.nv.setMouseEventConfig({
    leftButton: {primary: left, withShift: DRAG_MODE.none, withCtrl: DRAG_MODE.pan},
    rightButton: DRAG_MODE.none,
    centerButton: DRAG_MODE.pan,
  });
  viewer.scene.nv.opts.dragMode = tool === "pan" ? DRAG_MODE.pan : DRAG_MODE.none;
  viewer.stage.dataset.tool = tool;
}

function overlayControls(viewer) {
  const opacity = el("input", {
    type: "range",
    min: 0,
    max: 100,
    value: 45,
    oninput: () => change(viewer, {opacity: opacity.value / 100}),
  });
  const style = segmented(
    "Style of the overlay",
    [
      {value: "fill", text: "Filled"},
      {value: "outline", text: "Outline"},
    ],
    "fill",
    value => change(viewer, {outline: value === "outline"}),
  );
  const visible = el("input", {
    type: "checkbox",
    checked: true,
    onchange: () => change(viewer, {visible: visible.checked}),
  });
  const side =
    viewer.view.reference &&
    segmented(
      "Side",
      Object.entries(SIDES).map(([value, text]) => ({value, text})),
      "prediction",
      value => change(viewer, {side: value}),
    );
  const hasBrain = typeof viewer.view.brain === "number";
  const brain = el("input", {type: "checkbox", checked: true, onchange: () => change(viewer, {brain: brain.checked})});
  const legend = el("p.quiet-text.legend", {hidden: true});
  queueMicrotask(() =>
    viewer.onChange(state => {
      legend.hidden = state.side !== "both";
      legend.textContent = `${state.outline ? "Solid" : "Filled"}: prediction, dashed: reference`;
      opacity.value = Math.round(state.opacity * 100);
      visible.checked = state.visible;
      style.choose(state.outline ? "outline" : "fill");
      if (side) side.choose(state.side);
    }),
  );
  return waitingBox(
    viewer,
    "fieldset.overlay-controls",
    el("label.check", {}, visible, "Overlay"),
    style,
    el("label.slider", {}, "Opacity", opacity),
    hasBrain ? el("label.check.brain", {}, brain, swatch(scenes.BRAIN_COLOUR), "Outline of the brain") : null,
    side || null,
    side ? legend : null,
  );
}

function labelPlanes(viewer) {
  const planes = scenes.LAYOUTS[viewer.scene.state.layout];
  fill(
    viewer.labels,
    ...Object.entries(planes).map(([plane, [left, top]]) => {
      const label = el("span", {data: {plane}}, PLANE_NAMES[plane]);
      label.style.left = `${left * 100}%`;
      label.style.top = `${top * 100}%`;
      return label;
    }),
  );
  if (viewer.place) showSlices(viewer);
}

function showSlices(viewer) {
  const {mm} = viewer.place;
  const voxel = viewer.hasSpacing ? null : scenes.voxelAt(viewer.scene, mm);
  for (const label of viewer.labels.children) {
    const axis = AXES[label.dataset.plane];
    if (axis === undefined) continue;
    const along = scenes.arrayAxes(viewer.scene)[axis];
    const at = viewer.hasSpacing
      ? `${"xyz"[axis]} ${fixed(mm[axis], 1)}`
      : `${"ijk"[along]} ${fixed(voxel?.[along], 0)}`;
    label.textContent = `${PLANE_NAMES[label.dataset.plane]} ${at}`;
  }
}

/** The crosshair's place in mm; as indices of the mask's array where nobody knows how large a voxel is. */
function placeText(viewer, mm) {
  if (viewer.hasSpacing) return `x ${fixed(mm[0], 1)}  y ${fixed(mm[1], 1)}  z ${fixed(mm[2], 1)} mm`;
  const voxel = scenes.voxelAt(viewer.scene, mm) ?? [];
  return `voxel  i ${fixed(voxel[0], 0)}  j ${fixed(voxel[1], 0)}  k ${fixed(voxel[2], 0)}`;
}

function showPlace(viewer, place) {
  viewer.place = place;
  const scene = viewer.scene;
  if (!scene) return;
  const [low, high] = scenes.windowOf(scene);
  const value = isNumber(place.value)
    ? `${roleName(scene.state.modality)} ${fixed(place.value, digitsFor(high - low))}`
    : "";
  const inside = scenes.regionsAt(scene, place.mm).map(regionName);
  fill(
    viewer.readout,
    el("span.place", {}, placeText(viewer, place.mm)),
    el("span.value", {}, value),
    el("span.inside", {}, inside.length ? listed(inside) : "no region"),
  );
  showSlices(viewer);
}
