// A patient before the result: which file is what, what is wrong, the model, the progress.

import {announce, el, fill} from "./dom.js";
import {duration, listed, MODALITIES, roleName, shape, spacing, STAGE_ORDER, stageName} from "./format.js";

/** Of a follow-up: its visits are registered to each other, no network runs. */
const FOLLOWUP_STAGES = ["read", "prepare", "metrics", "preview"];
const ROLES = [...MODALITIES, "reference"];

/**
 * The files and the button that starts the run.
 * @param {import("./api.js").Case} patient
 * @param {Array<Object>} models GET /api/models
 * @param {{change: (change: Object) => void, run: () => void}} actions
 */
export function setupPanel(patient, models, actions) {
  return el(
    "div.setup",
    {},
    outcome(patient),
    messages("Problems", "problem", patient.problems),
    messages("Please note", "warning", patient.warnings),
    patient.files.length ? filesTable(patient, actions) : null,
    patient.missing?.length ? el("p.missing", {}, `Not there: ${listed(patient.missing.map(roleName))}.`) : null,
    runForm(patient, models, actions),
  );
}

const OUTCOMES = {
  failed: "The run failed.",
  cancelled: "The run was cancelled.",
  interrupted: "The server stopped during the run. It can be started again.",
};

function outcome(patient) {
  const text = OUTCOMES[patient.state];
  if (!text && !patient.error) return null;
  return el(
    `div.message.${patient.state === "cancelled" ? "warning" : "problem"}`,
    {role: "alert"},
    el("strong", {}, text ?? "This did not work."),
    patient.error ? el("p", {}, patient.error) : null,
  );
}

/** A follow-up that did not come to its end. */
export function againPanel(patient, actions) {
  return el(
    "div.setup",
    {},
    outcome(patient),
    el("div.actions", {}, el("button.primary", {type: "button", id: "run", onclick: actions.run}, "Compare again")),
  );
}

function messages(title, kind, texts) {
  if (!texts?.length) return null;
  return el(
    `div.message.${kind}`,
    {role: kind === "problem" ? "alert" : "note"},
    el("strong", {}, title),
    el("ul", {}, ...texts.map(text => el("li", {}, text))),
  );
}

function filesTable(patient, actions) {
  const isDicom = patient.files.some(file => file.series);
  const heads = [isDicom ? "Series" : "File", "Role", "Voxels", "Spacing (mm)", "Axes"];
  return el(
    "div.scroll",
    {tabIndex: 0, role: "region", "aria-label": "Files"},
    el(
      "table.files",
      {},
      el("caption.unseen", {}, "The images of this patient and what each is taken for"),
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          ...heads.map((head, i) => el("th", {scope: "col", className: i === 2 || i === 3 ? "number" : ""}, head)),
        ),
      ),
      el("tbody", {}, ...patient.files.map(file => fileRow(patient, file, actions))),
    ),
  );
}

function fileRow(patient, file, actions) {
  const select = el(
    "select",
    {
      "aria-label": `Role of ${file.name}`,
      id: `role-${file.id}`,
      onchange: () => actions.change({roles: {[file.id]: select.value || null}}),
    },
    ...(file.series ? MODALITIES : ROLES).map(role => el("option", {value: role}, roleName(role))),
    el("option", {value: ""}, "Not used"),
  );
  select.value = file.role ?? "";
  const hint = file.role && file.role === file.detected_role ? "recognised" : file.role ? "chosen" : "";
  return el(
    "tr",
    {className: file.problem ? "broken" : file.series && !file.role ? "aside" : ""},
    el(
      "th",
      {scope: "row"},
      el("span.filename", {}, file.name),
      file.reasons?.length ? el("small.reasons", {}, reasonsLine(file)) : null,
      file.problem
        ? el(
            "p.file-problem",
            {},
            [...(patient.problems ?? []), ...(patient.warnings ?? [])].includes(file.problem)
              ? "Cannot be used: see above"
              : file.problem,
          )
        : null,
    ),
    el("td", {}, el("span.role", {}, select, el("span.hint", {}, hint))),
    el("td.number", {}, shape(file.shape)),
    el("td.number", {}, spacing(file.spacing_mm)),
    el("td", {}, file.orientation ?? "–"),
  );
}

/** Why a DICOM series was taken for what it is, or left aside; a choice of the user's needs no reason. */
function reasonsLine(file) {
  if (file.role !== file.detected_role) return file.role ? "Chosen by hand" : "Left aside by hand";
  const fate = file.role ? `Taken for ${roleName(file.role)}` : "Left aside";
  return `${fate}: ${file.reasons.join(", ")}`;
}

/** Label of the box that has images prepared; the server's sentences name it. */
const PREPARE = "Prepare the images where they need it";

/** Images that are not registered or show the skull: prepared, unless the user says no. */
function prepareBox(patient, actions) {
  const box = el("input", {
    type: "checkbox",
    id: "prepare",
    checked: patient.prepare !== "off",
    onchange: () => actions.change({prepare: box.checked ? "auto" : "off"}),
  });
  const off = "Images that lie apart or show the skull are refused.";
  const on = patient.unready
    ? `Here ${patient.unready}: they are registered to each other, and the brain is cut out.`
    : "Images that lie apart are registered to each other, and a skull is removed; what is ready stays as it is.";
  return el(
    "div.prepare",
    {},
    el("label.check", {}, box, PREPARE),
    el("p.quiet-text", {}, patient.prepare === "off" ? off : on),
  );
}

function runForm(patient, models, actions) {
  const fitting = models.filter(model => patient.models?.includes(model.name));
  const names = fitting.length ? fitting.map(model => model.name) : (patient.models ?? []);
  const model = el(
    "select",
    {id: "model", onchange: () => actions.change({model: model.value})},
    ...names.map(name => el("option", {value: name}, name)),
  );
  model.value = patient.model ?? names[0] ?? "";
  const about = fitting.find(known => known.name === patient.model);
  const again = Boolean(patient.result) || ["failed", "cancelled", "interrupted"].includes(patient.state);
  const hasRole = patient.files.some(file => file.role && file.role !== "reference");
  return el(
    "form.run",
    {
      onsubmit: event => {
        event.preventDefault();
        actions.run();
      },
    },
    names.length || patient.prepare === "off" ? prepareBox(patient, actions) : null,
    names.length
      ? el("label", {}, "Model", model)
      : el("p.quiet-text", {}, hasRole ? "No model of this server fits these images." : chooseFirst(patient.files)),
    el(
      "button.primary",
      {type: "submit", id: "run", disabled: !patient.can_run},
      again ? "Run again" : "Find the tumour",
    ),
    about ? el("p.quiet-text.about", {}, modelLine(about)) : null,
  );
}

function chooseFirst(files) {
  return files.length > 1 ? "Choose what the files show first." : "Choose what the file shows first.";
}

/**
 * Above the form of a patient who has a result already.
 * @param {{back: () => void}} actions
 */
export function rerunNote(actions) {
  return el(
    "p.rerun",
    {},
    "A new run takes the place of the result and its files. ",
    el("button.link", {type: "button", id: "back", onclick: actions.back}, "Back to the result"),
  );
}

function modelLine(model) {
  const needs = model.modalities?.length ? `From ${listed(model.modalities.map(roleName))}` : "";
  const finds = model.regions?.length ? `to ${listed(model.regions)}` : "";
  const trained = typeof model.trained_on === "string" && model.trained_on ? `Trained on ${model.trained_on}.` : "";
  return [`${[needs, finds].filter(Boolean).join(" ")}.`, trained].filter(text => text.length > 1).join(" ");
}

/**
 * The progress of a case that is being checked, waits or runs.
 * @param {{cancel: () => void}} actions
 * @param {boolean} isFollowup whose stages are fewer
 * @returns {{element: HTMLElement, update: (patient: import("./api.js").Case) => void}}
 */
export function progressPanel(actions, isFollowup = false) {
  const stages = isFollowup ? FOLLOWUP_STAGES : STAGE_ORDER;
  const title = el("h2.stage-title");
  const bar = el("progress", {max: 1, "aria-label": "Progress"});
  const left = el("p.left");
  const steps = el(
    "ol.steps",
    {"aria-label": "Stages"},
    ...stages.map(stage => el("li", {data: {stage}}, stageName(stage))),
  );
  const cancel = el(
    "button",
    {
      type: "button",
      id: "cancel",
      onclick: () => {
        cancel.disabled = true;
        actions.cancel();
      },
    },
    "Cancel",
  );
  const element = el(
    "section.panel.working",
    {"aria-label": "Progress"},
    title,
    bar,
    left,
    steps,
    el("div.actions", {}, cancel),
  );
  let said = "",
    latest = null,
    since = Date.now();
  const tick = () => {
    const {state, seconds_left: seconds} = latest;
    const passed = `${duration((Date.now() - since) / 1000)} so far`;
    left.textContent = state !== "running" ? "" : seconds ? `About ${duration(seconds)} left` : passed;
  };
  const timer = setInterval(() => (element.isConnected ? tick() : clearInterval(timer)), 1000);
  const update = patient => {
    const {state, stage, progress} = patient;
    if (state !== latest?.state) since = Date.now();
    latest = patient;
    tick();
    title.textContent = headline(patient);
    const isKnown = state === "running" && (stage || progress > 0);
    if (isKnown) bar.value = progress ?? 0;
    else bar.removeAttribute("value");
    steps.hidden = !stage && state !== "queued";
    cancel.hidden = state === "checking";
    const at = stages.indexOf(stage);
    stages.forEach((_, i) => {
      const item = steps.children[i];
      item.className = state !== "running" || at < 0 || i > at ? "" : i < at ? "past" : "now";
      if (i === at && state === "running") item.setAttribute("aria-current", "step");
      else item.removeAttribute("aria-current");
    });
    // A screen reader hears of a new stage and of every quarter, not of every per cent.
    const news =
      state === "running"
        ? `${title.textContent}, ${Math.floor((progress ?? 0) * 4) * 25} per cent`
        : title.textContent;
    if (news !== said) announce((said = news));
  };
  return {element, update};
}

function headline(patient) {
  if (patient.state === "checking") return "Checking the images";
  if (patient.state === "running") return patient.stage ? stageName(patient.stage) : "Running";
  const ahead = (patient.queue_position ?? 1) - 1;
  return ahead > 0
    ? `Waiting: ${ahead} ${ahead === 1 ? "patient" : "patients"} before this one`
    : "Waiting: next in line";
}

/** The patient's name, which can be changed, and what else is said at the top. */
export function caseHeader(patient, state, actions) {
  const name = el("input.case-name", {
    value: patient.name,
    "aria-label": "Name of the patient",
    maxLength: 80,
    spellcheck: false,
    onchange: () => name.value.trim() && actions.rename(name.value.trim()),
  });
  const head = el(
    "header.case-head",
    {},
    el("h1.unseen", {tabIndex: -1}, `Patient ${patient.name}`),
    name,
    el("span.state", {}),
  );
  fill(head.querySelector(".state"), state);
  head.append(el("button.quiet", {type: "button", id: "delete", onclick: actions.remove}, "Delete"));
  return head;
}
