// Small corrections of the mask with NiiVue's pen, saved as a new file; the written mask itself is never changed.

import * as api from "./api.js";
import {announce, el, segmented, swatch} from "./dom.js";
import {cut, gzip, paste, readVolume} from "./nifti.js";
import {rgb} from "./overlay.js";
import {redraw} from "./scene.js";
import {setTool} from "./viewer.js";

const BRUSHES = ["1", "3", "5", "9"];

/**
 * @returns {{begin: HTMLElement, tools: HTMLElement, ready: () => void, onSaved: (patient: api.Case) => void} | null} null where the mask cannot be edited
 */
export function editBar(patient, viewer, actions) {
  const {view, labels} = patient.result;
  if (!view.mask || !Array.isArray(view.offset) || typeof DecompressionStream === "undefined") return null;
  const edit = {patient, viewer, actions, mask: null, pen: Number(Object.keys(labels)[0]), bar: {onSaved: () => {}}};
  const begin = el(
    "button.quiet.small",
    {type: "button", id: "edit", disabled: true, onclick: () => start(edit)},
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
  const tools = el(
    "div.edit-tools",
    {hidden: true, role: "group", "aria-label": "Correct the mask"},
    el("fieldset.pens", {}, el("legend.unseen", {}, "Pen"), ...pens, eraser),
    segmented(
      "Brush",
      BRUSHES.map(value => ({value, text: value, title: `${value} voxels`})),
      "3",
      value => {
        viewer.scene.nv.opts.penSize = Number(value);
      },
    ),
    el("button.quiet", {type: "button", onclick: () => viewer.scene.nv.drawUndo()}, "Undo"),
    save,
    el("button.quiet", {type: "button", onclick: () => stop(edit)}, "Discard"),
  );
  Object.assign(edit, {begin, tools});
  return Object.assign(edit.bar, {
    begin,
    tools,
    ready: () => {
      begin.disabled = !viewer.scene;
    },
  });
}

async function start(edit) {
  const {scene} = edit.viewer,
    {view, labels} = edit.patient.result;
  edit.begin.disabled = true;
  try {
    edit.mask = await readVolume(await api.fetchBytes(view.mask));
    const {image} = scene.overlays.prediction,
      dims = image.hdr.dims.slice(1, 4);
    const drawing = image.clone();
    drawing.img = cut(edit.mask, view.offset, dims);
    scene.nv.setDrawingEnabled(true);
    scene.nv.setDrawColormap(penColours(labels));
    scene.nv.setDrawOpacity(0.6);
    scene.nv.loadDrawing(drawing);
  } catch (error) {
    edit.begin.disabled = false;
    scene.nv.setDrawingEnabled(false);
    edit.actions.fail(error);
    return;
  }
  scene.editing = true;
  setTool(edit.viewer, "crosshair");
  scene.nv.opts.penSize = 3;
  choosePen(edit, edit.pen);
  show(edit, true);
  redraw(scene);
  announce("The pen draws on the mask. Nothing is saved until you say so.");
}

function stop(edit) {
  const {scene} = edit.viewer;
  scene.editing = false;
  scene.nv.setDrawingEnabled(false);
  scene.nv.closeDrawing();
  edit.mask = null;
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
    const changed = paste(edit.mask, inFileOrder(scene.nv.drawBitmap, image), edit.patient.result.view.offset, dims);
    if (!changed) throw new Error("Nothing has been drawn yet, so there is nothing to save.");
    const saved = await api.saveEdit(edit.patient.id, new Blob([await gzip(edit.mask.file)]));
    edit.bar.onSaved(saved);
    stop(edit);
    announce(`Saved as a new file; ${changed} voxels are changed.`);
  } catch (error) {
    edit.actions.fail(error);
  }
  button.disabled = false;
}
