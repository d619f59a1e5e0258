// Keyboard shortcuts of the viewer, and the list of them. Single keys can be switched off (WCAG 2.1.4).

import {announce, el} from "./dom.js";
import {resetView, step} from "./scene.js";
import {change, current, nextBackground, setLayout} from "./viewer.js";
import {resetWindow} from "./windowing.js";

const STORED = "single-key-shortcuts";
const toggle = name => viewer => change(viewer, {[name]: !viewer.scene.state[name]});
const fade = by => viewer => change(viewer, {opacity: Math.min(1, Math.max(0, viewer.scene.state.opacity + by))});
const lesion = by => viewer => viewer.stepLesion?.(by);

/** [keys, what they do, how]: `keys` as KeyboardEvent.key in lower case. */
const SHORTCUTS = [
  [["f"], "Four views", viewer => setLayout(viewer, "four")],
  [["a"], "Axial view", viewer => setLayout(viewer, "axial")],
  [["c"], "Coronal view", viewer => setLayout(viewer, "coronal")],
  [["s"], "Sagittal view", viewer => setLayout(viewer, "sagittal")],
  [["d"], "3D view", viewer => setLayout(viewer, "render")],
  [["b"], "Next background", nextBackground],
  [["w"], "Reset the window", resetWindow],
  [["o"], "Overlay on or off", toggle("visible")],
  [["m"], "Filled or outline", toggle("outline")],
  [["["], "Less opacity", fade(-0.1)],
  [["]"], "More opacity", fade(0.1)],
  [["r"], "Prediction, reference, both", nextSide],
  [
    ["1", "2", "3", "4", "5", "6", "7", "8"],
    "Region on or off",
    (viewer, key) => viewer.toggleRegion?.(Number(key) - 1),
  ],
  [["n"], "Next lesion", lesion(1)],
  [["p"], "Previous lesion", lesion(-1)],
  [["0"], "Back to the first lesion, no zoom", viewer => resetView(viewer.scene)],
];
const MOVES = {
  ArrowLeft: [1, 0, 0],
  ArrowRight: [-1, 0, 0],
  ArrowUp: [0, 1, 0],
  ArrowDown: [0, -1, 0],
  PageUp: [0, 0, 1],
  PageDown: [0, 0, -1],
};

function nextSide(viewer) {
  if (!viewer.view.reference) return;
  const sides = ["prediction", "reference", "both"];
  const side = sides[(sides.indexOf(viewer.scene.state.side) + 1) % sides.length];
  change(viewer, {side});
  announce(`Shown: ${side}`);
}

let isOn = true;
try {
  isOn = localStorage.getItem(STORED) !== "off";
} catch {
  /* storage may be forbidden */
}

/** Listen to the whole page's keys. */
export function wireKeys() {
  document.addEventListener(
    "keydown",
    event => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
      if (document.querySelector("dialog[open]")) return;
      const viewer = current?.scene ? current : null;
      if (viewer && event.target === viewer.canvas && MOVES[event.key]) {
        event.preventDefault();
        step(viewer.scene, ...MOVES[event.key]);
        return;
      }
      // Arrow keys choose among radio buttons, but letters do nothing there, so only what takes text is left alone.
      if (
        !isOn ||
        event.target.closest("input:not([type=radio]):not([type=checkbox]):not([type=range]), select, textarea")
      )
        return;
      if (event.key === "?") {
        event.preventDefault();
        showKeys();
        return;
      }
      const found = viewer && SHORTCUTS.find(([keys]) => keys.includes(event.key.toLowerCase()));
      if (!found) return;
      event.preventDefault();
      found[2](viewer, event.key);
    },
    {capture: true},
  );
}

/** The list of keys, as a dialog. */
export function showKeys() {
  const named = [
    ...SHORTCUTS.map(([keys, what]) => [
      keys.length > 1 ? `${keys[0]} … ${keys.at(-1)}` : keys[0].toUpperCase(),
      what,
    ]),
    ["← → ↑ ↓", "Move the crosshair (picture in focus)"],
    ["PgUp PgDn", "Next axial slice (picture in focus)"],
    ["?", "This list"],
  ];
  const box = el("input", {
    type: "checkbox",
    checked: isOn,
    onchange: () => {
      isOn = box.checked;
      try {
        localStorage.setItem(STORED, isOn ? "on" : "off");
      } catch {
        /* then for this page only */
      }
    },
  });
  const dialog = el(
    "dialog.keys",
    {"aria-labelledby": "keys-title"},
    el("h2", {id: "keys-title"}, "Keyboard"),
    el("dl", {}, ...named.map(([keys, what]) => el("div", {}, el("dt", {}, el("kbd", {}, keys)), el("dd", {}, what)))),
    el("label.check", {}, box, "Single-key shortcuts are on"),
    el("p.quiet-text", {}, "Tab goes through the controls; arrow keys choose among the buttons of a row."),
    el("div.actions", {}, el("button", {type: "button", autofocus: true, onclick: () => dialog.close()}, "Close")),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
