// A finished follow-up: the visits side by side with one crosshair, the curves, the categories, what to take away.

import {here} from "./api.js";
import {el, fill, segmented, swatch} from "./dom.js";
import {bytes, listed, millilitres, MODALITIES, regionName, roleName} from "./format.js";
import {linkedScenes} from "./linked.js";
import * as scenes from "./scene.js";

const LAYOUT_NAMES = {axial: "Axial", coronal: "Coronal", sagittal: "Sagittal"};
const SHOWN_NAMES = {regions: "Regions", growth: "Growth", none: "Nothing"};
const GROWTH_NAMES = {gained: "gained", kept: "kept", lost: "lost"};
const MOST = 4; // browsers keep few WebGL contexts
const MOVES = {
  ArrowLeft: [1, 0, 0],
  ArrowRight: [-1, 0, 0],
  ArrowUp: [0, 1, 0],
  ArrowDown: [0, -1, 0],
  PageUp: [0, 0, 1],
  PageDown: [0, 0, -1],
};

/** The follow-up on the page, or null: for whoever tests the page. */
export let current = null;

/**
 * @param {import("./api.js").Case} patient with a `followup`
 * @param {{again: () => void}} actions
 */
export function followupPage(patient, actions) {
  const told = patient.followup;
  const views = told.visits.map(visit => ({visit, growth: visit.view.growth}));
  // The first one is what the others are compared with; of many, the latest are beside it.
  const shown = views.length <= MOST ? views : [views[0], ...views.slice(1 - MOST)];
  const page = {told, views: shown, links: linkedScenes(), overlay: "regions", layout: "axial"};
  shown.forEach(view => buildView(view, page));
  page.controls = controls(page);
  const element = el(
    "div.followup",
    {},
    el("p.message.warning.no-diagnosis", {}, told.research),
    told.reason ? el("p.message.plain", {}, told.reason) : null,
    el(
      "section.visits",
      {"aria-label": "Visits side by side"},
      page.controls,
      el("div.visit-views", {data: {count: shown.length}}, ...shown.map(view => view.element)),
      legend(page),
      el(
        "p.convention",
        {},
        el("strong", {}, "Radiological convention: "),
        "the patient’s left is on the right of each picture. ",
        el("span.quiet-text", {}, "The crosshair marks the same place of the head at every visit, by registration."),
      ),
      shown.length < views.length
        ? el("p.quiet-text", {}, `The first and the ${MOST - 1} latest of ${views.length} visits are shown.`)
        : null,
    ),
    curvesPanel(told),
    categories(told),
    downloads(told, actions),
  );
  return {element, start: () => start(page), close: () => close(page)};
}

function buildView(view, page) {
  const {visit} = view;
  view.canvas = el("canvas", {
    tabIndex: 0,
    role: "img",
    "aria-label": `MRI at ${visit.label}. Arrow keys move the crosshair of all visits.`,
    onkeydown: event => {
      if (!view.scene || !MOVES[event.key]) return;
      event.preventDefault();
      event.stopPropagation();
      scenes.step(view.scene, ...MOVES[event.key]);
    },
  });
  view.lines = el("canvas.lines", {"aria-hidden": "true"});
  view.note = el("p.stage-note", {role: "status"}, "Loading…");
  view.readout = el("span.quiet-text.readout");
  const volumes = Object.entries(visit.volumes_ml).map(([region, ml]) => `${region} ${millilitres(ml)}`);
  view.element = el(
    "figure.visit",
    {data: {case: visit.case}},
    el("div.stage-box", {}, el("div.stage", {}, view.canvas, view.lines), view.note),
    el(
      "figcaption",
      {},
      el("strong", {}, visit.label),
      badge(visit.category),
      visit.when ? el("span.quiet-text", {}, visit.when) : null,
      el("span.volumes", {}, volumes.join(", ")),
      view.readout,
    ),
  );
  view.page = page;
}

const badge = category => (category ? el("span.category", {data: {category}}, category) : null);

function controls(page) {
  const names = MODALITIES.filter(name => page.views.every(({visit}) => visit.view.background[name]));
  const growing = page.views.find(({growth}) => growth);
  const option = (text, value) => ({value, text});
  page.backgrounds = segmented(
    "Background",
    names.map(name => option(roleName(name), name)),
    ["t1c", "flair", "t2", "t1"].find(name => names.includes(name)),
    name => eachScene(page, scene => scenes.setBackground(scene, name)),
  );
  const layouts = Object.entries(LAYOUT_NAMES).map(([value, text]) => option(text, value));
  const shown = Object.entries(SHOWN_NAMES).filter(([value]) => value !== "growth" || growing);
  return el(
    "fieldset.toolbar",
    {disabled: true},
    segmented("Plane", layouts, page.layout, layout => eachScene(page, scene => scenes.setLayout(scene, layout))),
    names.length > 1 ? page.backgrounds : null,
    segmented(
      "Overlay",
      shown.map(([value, text]) => option(text, value)),
      page.overlay,
      value => {
        page.overlay = value;
        page.views.forEach(view => showOverlay(view));
        page.legend.replaceChildren(...legendLines(page));
      },
    ),
  );
}

const eachScene = (page, use) => Promise.all(page.views.filter(({scene}) => scene).map(({scene}) => use(scene)));

/** Regions, growth or nothing; a visit without growth (the first) then shows what it is compared with. */
function showOverlay({scene, growth, visit, page}) {
  if (!scene) return;
  const bits = growth ? Object.values(growth.bits) : [];
  const region = page.views.find(view => view.growth)?.growth.region;
  scene.state.visible = page.overlay !== "none";
  scene.state.shown = visit.view.regions.map((name, bit) =>
    page.overlay === "growth" ? (growth ? bits.includes(bit) : name === region) : !bits.includes(bit),
  );
  scenes.redraw(scene);
}

function legend(page) {
  page.legend = el("p.legend.quiet-text", {});
  return fill(page.legend, ...legendLines(page));
}

function legendLines({views, overlay}) {
  const line = (colour, text) => el("span.key", {}, swatch(colour), text);
  const of = name => views.find(({visit}) => visit.view.regions.includes(name))?.visit.view;
  const colourOf = name => of(name)?.colours[of(name).regions.indexOf(name)];
  const growth = views.find(view => view.growth)?.growth;
  if (overlay === "growth" && growth)
    return [
      `${regionName(growth.region)} since ${growth.since}: `,
      ...Object.entries(GROWTH_NAMES).map(([name, text]) => line(colourOf(name), text)),
    ];
  if (overlay === "none") return [];
  const regions = [...new Set(views.flatMap(({visit}) => visit.view.regions))].filter(name => !GROWTH_NAMES[name]);
  return regions.map(name => line(colourOf(name), regionName(name)));
}

async function start(page) {
  current = page;
  for (const view of page.views) {
    try {
      await startView(view, page);
    } catch (error) {
      view.note.textContent = `The picture cannot be shown here: ${error.message}`;
    }
    if (current !== page) return;
  }
  // Where the latest visit with a tumour has its largest lesion.
  const target = page.views.findLast(({visit, scene}) => scene && Object.values(visit.volumes_ml).some(ml => ml > 0));
  if (target) page.links.go(target.visit.matrix, target.visit.view.centre_mm);
  page.controls.disabled = false;
  page.controls.closest(".followup").dataset.state = page.views.every(({scene}) => scene) ? "ready" : "failed";
}

async function startView(view, page) {
  const {matrix, view: files} = view.visit;
  const scene = await scenes.openScene(view.canvas, view.lines, files, page.layout, {
    onPlace: ({mm}) => {
      view.place = mm;
      if (!view.scene) return;
      const inside = scenes.regionsAt(view.scene, mm).filter(name => !GROWTH_NAMES[name]);
      view.readout.textContent = inside.length ? listed(inside) : "no region";
      page.links.onPlace(matrix, mm);
    },
  });
  if (!view.canvas.isConnected) return scenes.closeScene(scene);
  view.scene = scene;
  page.links.add(scene, matrix);
  view.note.remove();
  view.canvas.addEventListener("contextmenu", event => event.preventDefault());
  showOverlay(view);
}

function close(page) {
  if (current === page) current = null;
  for (const {scene} of page.views) if (scene) scenes.closeScene(scene);
}

/** The server's own drawing, as an element: scripts do not run in what is parsed, and the policy forbids them. */
function drawing(svg) {
  const found = new DOMParser().parseFromString(svg, "text/html").querySelector("svg.curve");
  return found ? document.importNode(found, true) : null;
}

function curvesPanel(told) {
  return el(
    "section.panel.curves",
    {},
    el("h2", {}, "Over time"),
    el(
      "div.charts",
      {},
      ...told.curves.map(({title, unit, svg}) =>
        el("figure", {}, el("figcaption", {}, el("strong", {}, title), ` ${unit}`), drawing(svg)),
      ),
    ),
    el("p.quiet-text", {}, told.curves_note),
  );
}

function categories(told) {
  return el(
    "section.panel.categories",
    {},
    el("h2", {}, told.criterion),
    el(
      "ol",
      {},
      ...told.visits.map(({label, when, category, note, reason, flags}) =>
        el(
          "li",
          {},
          el("span.when", {}, el("strong", {}, label), when ? el("span.quiet-text", {}, when) : null),
          badge(category),
          el(
            "span.why",
            {},
            note ? el("em", {}, `${note[0].toUpperCase()}${note.slice(1)}. `) : null,
            reason,
            flags ? el("span.quiet-text", {}, ` Doubts: ${flags}`) : null,
          ),
        ),
      ),
    ),
  );
}

function downloads(told, actions) {
  return el(
    "section.panel.downloads",
    {},
    el("h2", {}, "Take away"),
    el(
      "ul",
      {},
      ...told.files.map(file =>
        el(
          "li",
          {},
          el("a", {href: here(file.url), download: file.name}, file.what),
          el("span.quiet-text", {}, `${file.name}, ${bytes(file.bytes)}`),
        ),
      ),
    ),
    el("p.research", {}, "For research use only. Not a medical device: do not base a diagnosis or a treatment on it."),
    el("button", {type: "button", id: "again", onclick: actions.run}, "Compute again"),
  );
}
