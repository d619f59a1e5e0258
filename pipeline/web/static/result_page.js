// A finished case: the viewer beside what was measured, what to take away, and where the model comes from.

import {el, swatch, announce} from "./dom.js";
import {bytes, clock, duration, fixed, isNumber, measure, millilitres, regionName, roleName} from "./format.js";
import {here} from "./api.js";
import {editBar} from "./editing.js";
import {markdown} from "./markdown.js";
import {makeViewer} from "./viewer.js";

/**
 * @typedef {Object} ResultActions
 * @property {(patient: import("./api.js").Case) => void} replace
 * @property {() => void} again
 * @property {(error: Error) => void} fail
 */

/**
 * @typedef {Object} ResultPage
 * @property {HTMLElement} element
 * @property {() => Promise<void>} start
 * @property {() => void} close
 * @property {() => boolean} isDrawn true while changes of the mask are not saved
 */

/**
 * @param {import("./api.js").Case} patient in state "done"
 * @param {Array<Object>} models
 * @param {ResultActions} actions
 * @returns {ResultPage}
 */
export function resultPage(patient, models, actions) {
  const {result} = patient;
  const viewer = result.view ? makeViewer(result, patient.name) : null;
  const edits = viewer && editBar(patient, viewer, actions);
  if (edits) {
    viewer.secondBar.append(edits.begin);
    viewer.secondBar.after(edits.tools, edits.said);
  }
  const downloads = el("div.downloads-box", {}, downloadsPanel(result));
  const panel = el(
    "div.side",
    {},
    quality(result),
    preparationPanel(result),
    viewer ? regionsPanel(result, viewer) : null,
    lesionsPanel(result, viewer),
    downloads,
    modelPanel(patient, models, actions),
  );
  const element = el("div.result", {}, viewer?.element ?? null, panel);
  if (edits)
    edits.onSaved = saved => {
      actions.replace(saved);
      downloads.replaceChildren(downloadsPanel(saved.result));
    };
  return {
    element,
    start: async () => {
      await viewer?.start();
      edits?.ready();
    },
    close: () => {
      edits?.close();
      viewer?.close();
    },
    isDrawn: () => Boolean(edits?.isDrawn()),
  };
}

function quality(result) {
  const flags = [...(result.reason ? [result.reason] : []), ...(result.flags ?? [])].filter(
    (flag, i, all) => all.indexOf(flag) === i,
  );
  const isFine = result.status === "ok" && !flags.length;
  return el(
    `section.message.${isFine ? "plain" : result.status === "error" ? "problem" : "warning"}`,
    {"aria-label": "Quality"},
    el("strong", {}, isFine ? "Nothing unusual found" : "Look closely"),
    flags.length
      ? el("ul", {}, ...flags.map(flag => el("li", {}, flag)))
      : el(
          "p",
          {},
          "Looked for: an empty region, tumour at the edge of the image, an unusual volume of the whole tumour. " +
            "Whether the outline is right was not checked: look at every slice.",
        ),
    result.checks?.length
      ? el("ul.checks", {"aria-label": "Looked for in the images"}, ...result.checks.map(check => el("li", {}, check)))
      : null,
    result.spacing_known === false
      ? el("p", {}, "The files do not say how large a voxel is: millimetres and millilitres are not known.")
      : null,
  );
}

/** What was done to images that were not ready: the moves, and the brain that was kept. */
function preparationPanel(result) {
  const {preparation} = result;
  if (!preparation) return null;
  const moves = Object.entries(preparation.moves);
  const rows = moves.map(([modality, {mm, degrees}]) =>
    el(
      "tr",
      {data: {modality}},
      el("th", {scope: "row"}, roleName(modality)),
      el("td.number", {}, fixed(mm, 1)),
      el("td.number", {}, fixed(degrees, 1)),
    ),
  );
  const onto = roleName(preparation.reference);
  const heads = [["Image"], ["Moved mm", "By how much the middle was moved"], ["Turned °", "Angle of the turn"]];
  return el(
    "section.panel.preparation",
    {},
    el("h2", {}, "Preparation"),
    moves.length
      ? el("p.quiet-text", {}, `Registered to ${onto}; the picture shows the images where they were laid.`)
      : null,
    moves.length ? table("Moves", heads, rows, "moves") : null,
    preparation.stripped
      ? el("p.quiet-text", {}, "The skull was removed: the model saw what lies inside the outline of the brain alone.")
      : null,
  );
}

function table(caption, heads, rows, kind) {
  return el(
    "div.scroll",
    {tabIndex: 0, role: "region", "aria-label": caption},
    el(
      `table.${kind}`,
      {},
      el("caption.unseen", {}, caption),
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          ...heads.map(([text, title], i) => el("th", {scope: "col", title, className: i ? "number" : ""}, text)),
        ),
      ),
      el("tbody", {}, ...rows),
    ),
  );
}

function regionsPanel(result, viewer) {
  // Without a voxel size there are no millilitres and no millimetres, only voxels.
  const heads = viewer.hasSpacing
    ? [["Region"], ["ml", "Volume"], ["Lesions", "Number of lesions"], ["⌀ mm", "Largest axial diameter"]]
    : [["Region"], ["Voxels", "Number of voxels"], ["Lesions", "Number of lesions"]];
  // Results that an older version has left have none.
  const measures = (result.measures ?? []).filter(({unit}) => viewer.hasSpacing || !unit);
  heads.push(...measures.map(({heading, meaning}) => [heading, meaning]));
  const boxes = new Map();
  const rows = result.regions.map(row => {
    const bit = result.view.regions.indexOf(row.region);
    const box = el("input", {
      type: "checkbox",
      checked: true,
      disabled: bit < 0,
      "aria-label": `Show ${regionName(row.region)}`,
      onchange: () => viewer.showRegion(bit, box.checked),
    });
    if (bit >= 0) boxes.set(bit, box);
    return el(
      "tr",
      {data: {region: row.region}},
      el(
        "th",
        {scope: "row"},
        el(
          "label.check",
          {},
          box,
          swatch(row.colour),
          el("span", {}, regionName(row.region), el("small", {}, row.region)),
        ),
      ),
      el("td.number", {}, viewer.hasSpacing ? measure(row.volume_ml) : fixed(row.voxels, 0)),
      el("td.number", {}, fixed(row.lesions, 0)),
      viewer.hasSpacing ? el("td.number", {}, fixed(row.largest_diameter_mm, 1)) : null,
      ...measures.map(({key, unit}) => el("td.number", {}, unit ? measure(row[key]) : fixed(row[key], 3))),
    );
  });
  viewer.toggleRegion = bit => {
    const box = boxes.get(bit);
    if (!box) return;
    box.checked = !box.checked;
    viewer.showRegion(bit, box.checked);
    announce(`${regionName(result.view.regions[bit])} ${box.checked ? "shown" : "hidden"}`);
  };
  return el(
    "section.panel",
    {},
    el("h2", {}, "Regions"),
    viewer.overlayControls,
    viewer.whenReady(table("Regions", heads, rows, "regions")),
  );
}

/** The place of a lesion: a voxel in it, else its centroid (which can lie outside of a ring), else null. */
function placeOf({centre_voxel: voxel, centroid_mm: mm}) {
  if (voxel?.every(isNumber)) return {voxel};
  return mm?.length === 3 && mm.every(isNumber) ? {mm} : null;
}

function lesionsPanel(result, viewer) {
  const lesions = result.lesions ?? [];
  if (!lesions.length) return el("section.panel", {}, el("h2", {}, "Lesions"), el("p", {}, "No lesion was found."));
  const colours = Object.fromEntries(result.regions.map(row => [row.region, row.colour]));
  const isSized = result.spacing_known !== false;
  const rows = [];
  const go = i => {
    rows.forEach((row, other) => {
      row.toggleAttribute("data-current", other === i);
    });
    rows[i].scrollIntoView({block: "nearest"});
    const {region, lesion} = lesions[i];
    viewer.jump(placeOf(lesions[i]), `lesion ${lesion} of ${regionName(region)}`);
    viewer.lesion = i;
  };
  lesions.forEach((lesion, i) => {
    const name = `${lesion.region} ${lesion.lesion}`;
    const place = ((isSized ? lesion.centroid_mm : lesion.centre_voxel) ?? []).map(value => fixed(value, 0)).join(" ");
    rows.push(
      el(
        "tr",
        {},
        el(
          "th",
          {scope: "row"},
          swatch(colours[lesion.region]),
          viewer && placeOf(lesion)
            ? el(
                "button.link",
                {
                  type: "button",
                  "aria-label": `${name}: go to lesion ${lesion.lesion} of ${regionName(lesion.region)}`,
                  onclick: () => go(i),
                },
                name,
              )
            : name,
        ),
        isSized ? el("td.number", {}, measure(lesion.volume_ml)) : null,
        isSized ? el("td.number", {}, diameters(lesion)) : null,
        el("td.number", {}, place || "–"),
      ),
    );
  });
  const placed = lesions.map((_, i) => i).filter(i => placeOf(lesions[i]));
  if (viewer && placed.length)
    viewer.stepLesion = by => {
      const at = viewer.lesion === undefined ? (by > 0 ? -1 : 0) : placed.indexOf(viewer.lesion);
      go(placed[(at + by + placed.length) % placed.length]);
    };
  const heads = isSized
    ? [
        ["Lesion"],
        ["ml", "Volume"],
        ["⌀ mm", "Longest axial diameter × longest perpendicular to it"],
        ["Centre x y z (mm)", "Centre in mm, to the right, front and top"],
      ]
    : [["Lesion"], ["Centre i j k (voxel)", "A voxel in its middle, as indices of the mask's array"]];
  // A lesion has a row for each of the nested regions; the outermost region's rows alone tell their number.
  const outermost = result.regions[0];
  const content = table("Lesions", heads, rows, "lesions");
  return el(
    "section.panel",
    {},
    el(
      "h2",
      {},
      "Lesions",
      outermost?.lesions ? el("small", {}, `${regionName(outermost.region)}: ${outermost.lesions}`) : null,
    ),
    viewer ? viewer.whenReady(content) : content,
  );
}

function diameters({diameter_mm: longest, perpendicular_mm: across}) {
  return isNumber(longest) ? `${fixed(longest, 1)} × ${fixed(across, 1)}` : "–";
}

function fileLink(file, kind = "a") {
  return el(kind, {href: here(file.url), download: file.name.split("/").pop()}, file.what || file.name);
}

function fileList(files) {
  const line = file => [file.what ? file.name : "", bytes(file.bytes)].filter(Boolean).join(", ");
  return el("ul", {}, ...files.map(file => el("li", {}, fileLink(file), el("span.quiet-text", {}, line(file)))));
}

/** The mask, those that were changed by hand and all in one; each other file is folded away. */
function downloadsPanel(result) {
  const files = result.files ?? [];
  const whole = files.find(file => file.name === "everything.zip");
  const masks = files.filter((file, i) => i === 0 || file.name.startsWith("edited-"));
  const rest = files.filter(file => file !== whole && !masks.includes(file));
  return el(
    "section.panel.downloads",
    {},
    el("h2", {}, "Take away"),
    fileList(masks),
    whole ? el("p", {}, fileLink(whole, "a.button.primary"), el("span.quiet-text", {}, bytes(whole.bytes))) : null,
    ...(result.left_out ?? []).map(text => el("p.quiet-text", {}, `${text}.`)),
    rest.length ? el("details", {}, el("summary", {}, `Each file (${rest.length})`), fileList(rest)) : null,
  );
}

function modelPanel(patient, models, actions) {
  const {result} = patient;
  const model = models.find(known => known.name === result.model);
  const facts = [
    ["Model", result.model],
    ["Labels", result.convention],
    ["Time", duration(result.seconds)],
    ["Kept until", clock(patient.expires)],
    ["Licence", model?.licence],
  ].filter(([, value]) => typeof value === "string" && value);
  return el(
    "section.panel",
    {},
    el("h2", {}, "About this result"),
    el("dl.facts", {}, ...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    el("p.research", {}, "For research use only. Not a medical device: do not base a diagnosis or a treatment on it."),
    // The images of an earlier run lie elsewhere, and are assigned for good.
    patient.files?.length
      ? el("button", {type: "button", id: "again", onclick: actions.again}, "Run again with other settings…")
      : null,
    model?.card ? el("details.card-box", {}, el("summary", {}, "Model card"), markdown(model.card)) : null,
  );
}

/** One line for the top of the page: the largest region and its volume. */
export function summary(result) {
  const first = result.regions?.[0];
  if (!first) return "";
  const size = isNumber(first.volume_ml) ? millilitres(first.volume_ml) : `${fixed(first.voxels, 0)} voxels`;
  return `${regionName(first.region)} ${size}`;
}
