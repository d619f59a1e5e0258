// The window of grey values: its two fields, and dragging on the picture.

import {el} from "./dom.js";
import {digitsFor} from "./format.js";
import * as scenes from "./scene.js";

/** Level and width as numbers, and the way back; keeps the fields in `viewer`. */
export function windowFields(viewer) {
  const field = () =>
    el("input", {
      type: "number",
      step: "any",
      onchange: () => {
        const level = Number(viewer.level.value),
          width = Number(viewer.width.value);
        if (viewer.scene && Number.isFinite(level) && width > 0)
          scenes.setWindow(viewer.scene, level - width / 2, level + width / 2);
        if (viewer.scene) showWindow(viewer);
      },
    });
  viewer.level = field();
  viewer.width = field();
  return el(
    "div.window",
    {role: "group", "aria-label": "Window"},
    el("label", {}, "Level", viewer.level),
    el("label", {}, "Width", viewer.width),
    el(
      "button.quiet.small",
      {type: "button", "aria-label": "Reset the window", onclick: () => resetWindow(viewer)},
      "Reset",
    ),
  );
}

/** Back to the window that the server proposes. */
export function resetWindow(viewer) {
  scenes.resetWindow(viewer.scene);
  showWindow(viewer);
}

/** Bring the fields up to what is shown. */
export function showWindow(viewer) {
  const [low, high] = scenes.windowOf(viewer.scene);
  const digits = digitsFor(high - low);
  viewer.level.value = ((low + high) / 2).toFixed(digits);
  viewer.width.value = (high - low).toFixed(digits);
}

/** Drag with the right button, shift, or the window tool: to the right for more width, up for a higher level. */
export function wireMouse(viewer) {
  const {canvas} = viewer;
  let from = null;
  const isWindowing = event =>
    event.button === 2 || (event.button === 0 && (viewer.tool === "window" || event.shiftKey));
  canvas.addEventListener("pointerdown", event => {
    // The browser would scroll the picture into view when it takes the focus, and move it under a stroke.
    canvas.focus({preventScroll: true});
    if (!isWindowing(event)) return;
    const [low, high] = scenes.windowOf(viewer.scene);
    from = {x: event.clientX, y: event.clientY, level: (low + high) / 2, width: high - low};
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", event => {
    if (!from) return;
    // 125 pixels double the width, 250 are one width of level: every image answers alike, whatever its units.
    const width = Math.max(from.width * 2 ** ((event.clientX - from.x) / 125), 1e-6);
    const level = from.level + ((event.clientY - from.y) / -250) * from.width;
    scenes.setWindow(viewer.scene, level - width / 2, level + width / 2);
    showWindow(viewer);
  });
  for (const kind of ["pointerup", "pointercancel"])
    canvas.addEventListener(kind, () => {
      from = null;
    });
  canvas.addEventListener("contextmenu", event => event.preventDefault());
}
