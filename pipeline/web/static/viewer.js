// The viewer: the canvas with its labels, the controls around it, the mouse and the keys.

import {el, fill, segmented, announce} from "./dom.js";
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
 * @property {(bit: number, on: boolean) => void} showRegion
 * @property {(mm: number[], what: string) => void} jump
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
    "aria-label": `MRI of ${name} with the tumour's regions as colours. Arrow keys move the crosshair, page up and page down change the axial slice.`,
  });
  const lines = el("canvas.lines", {"aria-hidden": "true"});
  const labels = el("div.plane-labels", {"aria-hidden": "true"});
  const stage = el("div.stage", {}, canvas, lines, labels);
  const note = el("p.stage-note", {role: "status"}, "Loading the viewer…");
  const viewer = {result, view, canvas, lines, stage, labels, note, listeners: [], tool: "crosshair", place: null};
  viewer.bar = toolbar(viewer);
  viewer.readout = el("output.readout", {"aria-label": "Crosshair"});
  viewer.windowing = windowFields(viewer);
  viewer.secondBar = el("div.toolbar", {}, viewer.tools, viewer.windowing);
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
      el("strong", {}, "Radiological convention: "),
      "the patient’s left is on the right of the picture. ",
      el(
        "span.quiet-text",
        {},
        "Click to move the crosshair, scroll to change slices, drag with the right button to set the window; ? lists the keys.",
      ),
    ),
  );
  viewer.start = () => start(viewer);
  viewer.close = () => close(viewer);
  viewer.showRegion = (bit, on) => {
    viewer.scene.state.shown[bit] = on;
    change(viewer, {});
  };
  viewer.jump = (mm, what) => {
    scenes.jump(viewer.scene, mm);
    announce(`Crosshair at ${what}`);
  };
  viewer.onChange = listener => viewer.listeners.push(listener);
  return viewer;
}

async function start(viewer) {
  try {
    viewer.scene = await scenes.openScene(viewer.canvas, viewer.lines, viewer.view, {
      onPlace: place => showPlace(viewer, place),
    });
  } catch (error) {
    viewer.note.textContent = `The pictures cannot be shown here: ${error.message} The files below can still be downloaded.`;
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
  viewer.element.dataset.state = "ready";
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
  viewer.layouts = segmented("Views", layouts, "four", value => setLayout(viewer, value));
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
  return el("div.toolbar", {}, viewer.layouts, viewer.backgrounds);
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
  queueMicrotask(() =>
    viewer.onChange(state => {
      opacity.value = Math.round(state.opacity * 100);
      visible.checked = state.visible;
      style.choose(state.outline ? "outline" : "fill");
      if (side) side.choose(state.side);
    }),
  );
  return el(
    "div.overlay-controls",
    {},
    el("label.check", {}, visible, "Overlay"),
    style,
    el("label.slider", {}, "Opacity", opacity),
    side || null,
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
  for (const label of viewer.labels.children) {
    const axis = AXES[label.dataset.plane];
    if (axis !== undefined)
      label.textContent = `${PLANE_NAMES[label.dataset.plane]} ${"xyz"[axis]} ${fixed(viewer.place.mm[axis], 1)}`;
  }
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
    el("span.place", {}, `x ${fixed(place.mm[0], 1)}  y ${fixed(place.mm[1], 1)}  z ${fixed(place.mm[2], 1)} mm`),
    el("span.value", {}, value),
    el("span.inside", {}, inside.length ? listed(inside) : "no region"),
  );
  showSlices(viewer);
}
