// Small corrections of the mask with NiiVue's pen, saved as a new file; the written mask itself is never changed.

import * as api from "./api.js";
import {announce, confirmed, el, fill, segmented, swatch} from "./dom.js";
import {cut, gzip, paste, readVolume} from "./nifti.js";
import {rgb} from "./overlay.js";
import {redraw} from "./scene.js";
import {setTool} from "./viewer.js";

const BRUSHES = ["1", "3", "5", "9"];

/** Asked before changes of the mask are lost. */
export const DISCARD_QUESTION = "What you have drawn on the mask is not saved. Discard it?";

/**
 * @typedef {Object} EditBar
 * @property {HTMLElement} begin the button
 * @property {HTMLElement} tools pens and brushes, seen while something is edited
 * @property {HTMLElement} said what was saved last
 * @property {() => void} ready the pictures are there
 * @property {() => boolean} isDrawn there are changes that are not saved
 * @property {() => void} close the page is left
 * @property {(patient: api.Case) => void} onSaved set by whoever wants to know
 */

/** @returns {EditBar | null} null where the mask cannot be edited */
export function editBar(patient, viewer, actions) {
  const {view, labels} = patient.result;
  if (patient.state !== "done" || !view.mask || !Array.isArray(view.offset)) return null;
  if (typeof DecompressionStream === "undefined") return null;
  const pen = Number(Object.keys(labels)[0]);
  const edit = {patient, viewer, actions, mask: null, before: null, pen, brush: 3, bar: {onSaved: () => {}}};
  edit.warn = event => isDrawn(edit) && event.preventDefault();
  const begin = el(
    "button.quiet.small",
    {type: "button", id: "edit", disabled: true, onclick: () => start(edit, newestEdit(edit))},
    "Edit mask…",
  );
  const pens = Object.entries(labels).map(([value, {name, colour}]) => {
    const input = el("input", {
      type: "radio",
      name: "pen",
      value,
      checked: Number(value) === edit.pen,
      onchange: () => choosePen(edit, Number(value)),
    });
    return el("label.check", {}, input, swatch(colour), name);
  });
  const eraser = el(
    "label.check",
    {},
    el("input", {type: "radio", name: "pen", value: "0", onchange: () => choosePen(edit, 0)}),
    "Eraser",
  );
  const save = el(
    "button.primary",
    {type: "button", id: "edit-save", onclick: () => store(edit, save)},
    "Save as a new file",
  );
  const from = el("p.edit-from");
  const said = el("p.edit-said", {role: "status", hidden: true});
  const tools = el(
    "div.edit-tools",
    {hidden: true, role: "group", "aria-label": "Correct the mask"},
    el("fieldset.pens", {}, el("legend.unseen", {}, "Pen"), ...pens, eraser),
    segmented(
      "Brush",
      BRUSHES.map(value => ({value, text: value, title: `${value} voxels`})),
      String(edit.brush),
      value => {
        edit.brush = viewer.scene.nv.opts.penSize = Number(value);
      },
    ),
    el("button.quiet", {type: "button", onclick: () => viewer.scene.nv.drawUndo()}, "Undo"),
    save,
    el("button.quiet", {type: "button", onclick: () => stop(edit)}, "Discard"),
    from,
  );
  Object.assign(edit, {begin, tools, from, said});
  return Object.assign(edit.bar, {
    begin,
    tools,
    said,
    ready: () => {
      begin.disabled = !viewer.scene;
    },
    isDrawn: () => isDrawn(edit),
    close: () => removeEventListener("beforeunload", edit.warn),
  });
}

/** The saved edit with the highest number, or null. */
function newestEdit(edit) {
  const numbered = (edit.patient.result.files ?? [])
    .map(file => ({file, number: Number(file.name.match(/^edited-(\d+)\.nii\.gz$/)?.[1])}))
    .filter(({number}) => number)
    .sort((a, b) => a.number - b.number);
  return numbered.at(-1)?.file ?? null;
}

/**
 * Show the mask for drawing.
 * @param {{name: string, url: string} | null} saved an edit to go on from; null for the model's own mask
 */
async function start(edit, saved) {
  const {scene} = edit.viewer,
    {view, labels} = edit.patient.result;
  edit.begin.disabled = true;
  try {
    edit.mask = await readVolume(await api.fetchBytes(saved?.url ?? view.mask));
    const {image} = scene.overlays.prediction,
      dims = image.hdr.dims.slice(1, 4);
    const drawing = image.clone();
    drawing.img = cut(edit.mask, view.offset, dims);
    scene.nv.setDrawingEnabled(true);
    scene.nv.setDrawColormap(penColours(labels));
    scene.nv.setDrawOpacity(0.6);
    scene.nv.loadDrawing(drawing);
    edit.before = scene.nv.drawBitmap.slice();
  } catch (error) {
    edit.begin.disabled = false;
    scene.nv.setDrawingEnabled(Boolean(scene.editing));
    edit.actions.fail(error);
    return;
  }
  scene.editing = true;
  setTool(edit.viewer, "crosshair");
  scene.nv.opts.penSize = edit.brush;
  choosePen(edit, edit.pen);
  addEventListener("beforeunload", edit.warn);
  edit.said.hidden = true;
  edit.from.hidden = !saved;
  if (saved) fill(edit.from, `Going on from ${saved.name}. `, ownMask(edit));
  show(edit, true);
  redraw(scene);
  announce(
    (saved ? `The edit goes on from ${saved.name}. ` : "") +
      "The pen draws on the mask. Nothing is saved until you say so.",
  );
}

/** A way back to what the model found, once there are edits. */
function ownMask(edit) {
  const begin = async () => {
    if (isDrawn(edit) && !(await confirmed(DISCARD_QUESTION, "Discard"))) return;
    await start(edit, null);
  };
  return el("button.link", {type: "button", onclick: begin}, "Begin with the model’s mask instead");
}

/** How many voxels differ from what was there when the edit began. */
function countDrawn(edit) {
  const drawn = edit.viewer.scene.nv.drawBitmap;
  let count = 0;
  for (let i = 0; i < drawn.length; i++) count += drawn[i] !== edit.before[i];
  return count;
}

const isDrawn = edit => Boolean(edit.mask) && countDrawn(edit) > 0;

function stop(edit) {
  const {scene} = edit.viewer;
  scene.editing = false;
  scene.nv.setDrawingEnabled(false);
  scene.nv.closeDrawing();
  edit.mask = null;
  edit.before = null;
  removeEventListener("beforeunload", edit.warn);
  show(edit, false);
  redraw(scene);
}

function show(edit, on) {
  edit.tools.hidden = !on;
  edit.begin.hidden = on;
  edit.begin.disabled = false;
  edit.viewer.stage.toggleAttribute("data-editing", on);
  (on ? edit.tools.querySelector("input") : edit.begin).focus();
}

function choosePen(edit, value) {
  edit.pen = value;
  edit.viewer.scene.nv.setPenValue(value, false);
}

function penColours(labels) {
  const table = {R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""]};
  for (const [value, {name, colour}] of Object.entries(labels)) {
    const [r, g, b] = rgb(colour);
    table.R.push(r);
    table.G.push(g);
    table.B.push(b);
    table.A.push(255);
    table.I.push(Number(value));
    table.labels.push(name);
  }
  return table;
}

/** NiiVue draws on voxels in RAS order; a file has its own. */
function inFileOrder(drawn, image) {
  const [n1, n2, n3] = image.dimsRAS.slice(1, 4),
    {img2RASstart: from, img2RASstep: by} = image;
  const out = new Uint8Array(drawn.length),
    first = from[0] + from[1] + from[2];
  let i = 0;
  for (let z = 0; z < n3; z++) {
    for (let y = 0; y < n2; y++) {
      for (let x = 0; x < n1; x++) out[first + x * by[0] + y * by[1] + z * by[2]] = drawn[i++];
    }
  }
  return out;
}

async function store(edit, button) {
  const {scene} = edit.viewer,
    {image} = scene.overlays.prediction,
    dims = image.hdr.dims.slice(1, 4);
  button.disabled = true;
  try {
    const changed = countDrawn(edit);
    if (!changed) throw new Error("Nothing has been drawn yet, so there is nothing to save.");
    paste(edit.mask, inFileOrder(scene.nv.drawBitmap, image), edit.patient.result.view.offset, dims);
    const saved = await api.saveEdit(edit.patient.id, new Blob([await gzip(edit.mask.file)]));
    edit.patient = saved;
    edit.bar.onSaved(saved);
    stop(edit);
    edit.said.hidden = false;
    const done = `Saved as ${newestEdit(edit).name}, ${changed} voxels changed.`;
    edit.said.textContent = `${done} The picture shows the model’s own mask again.`;
  } catch (error) {
    edit.actions.fail(error);
  }
  button.disabled = false;
}
