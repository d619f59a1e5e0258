// The page: which patient is shown, and what the parts of the page ask for.

import * as api from "./api.js";
import {againPanel, caseHeader, progressPanel, rerunNote, setupPanel} from "./case_page.js";
import {announce, confirmed, el, fill} from "./dom.js";
import {wireDrop} from "./drop.js";
import {DISCARD_QUESTION} from "./editing.js";
import {canBeVisit, followupForm} from "./followup_form.js";
import {followupPage} from "./followup_page.js";
import {stateName} from "./format.js";
import {showKeys, wireKeys} from "./keys.js";
import {resultPage, summary} from "./result_page.js";
import {startPage, uploadPage} from "./start_page.js";

const main = document.querySelector("main");
const list = document.querySelector("#patients");
const notice = document.querySelector("#notice");
const POLL_MS = 4000;

let models = [];
let cases = [];
/**
 * The view on the page: {id, close(), isDrawn()}. The start page has the id null; isDrawn is true while a drawing is
 * not saved.
 */
let shown = {id: null, close: () => {}, isDrawn: () => false};

function fail(error) {
  if (error?.name === "AbortError") return;
  const close = el(
    "button.quiet.small",
    {
      type: "button",
      onclick: () => {
        notice.hidden = true;
      },
    },
    "Dismiss",
  );
  fill(notice, el("p", {}, error.message), close);
  notice.hidden = false;
}

function showing(id, element, close = () => {}, isDrawn = () => false) {
  shown.close();
  shown = {id, close, isDrawn};
  notice.hidden = true;
  fill(main, element);
  nameWindow();
  scrollTo(0, 0);
  // A screen reader begins to read here; on the first load the focus is left where the browser puts it.
  if (document.body.dataset.started) main.querySelector("h1")?.focus({preventScroll: true});
  document.body.dataset.started = "yes";
  drawList();
  list.querySelector("[aria-current]")?.scrollIntoView({block: "nearest", inline: "nearest"});
}

function nameWindow() {
  const without = location.hash === "#/compare" ? "Compare visits" : "Open a patient";
  const name = shown.id ? (cases.find(known => known.id === shown.id)?.name ?? "Patient") : without;
  document.title = `${name} · Brain tumour segmentation`;
}

let asking = null;

/** Ask before the page is left with something drawn that is not saved; one question at a time. */
function mayLeave() {
  if (!shown.isDrawn()) return true;
  asking ??= confirmed(DISCARD_QUESTION, "Discard").finally(() => {
    asking = null;
  });
  return asking;
}

function keep(patient) {
  cases = [patient, ...cases.filter(known => known.id !== patient.id)].sort((a, b) => b.created - a.created);
  drawList();
}

function drawList() {
  document.querySelector("#sidebar").hidden = !cases.length;
  document.querySelector("#compare").hidden = cases.filter(canBeVisit).length < 2;
  fill(
    list,
    ...cases.map(patient =>
      el(
        "li",
        {},
        el(
          "a",
          {
            href: `#/case/${patient.id}`,
            "aria-current": patient.id === shown.id ? "page" : undefined,
          },
          el("span.name", {}, patient.name),
          el("span.state", {data: {state: patient.state}}, listLine(patient)),
        ),
      ),
    ),
  );
}

function listLine(patient) {
  if (patient.state === "done" && patient.followup) return `${patient.visits.length} visits over time`;
  if (patient.state === "running" && patient.progress > 0)
    return `running, ${Math.round((patient.progress ?? 0) * 100)} %`;
  if (patient.state === "ready" && !patient.can_run) return "needs attention";
  if (patient.state === "done" && patient.result) return summary(patient.result) || "done";
  return stateName(patient.state);
}

const go = hash => {
  if (location.hash === hash) route();
  else location.hash = hash;
};

async function route() {
  if (!(await mayLeave())) return history.replaceState(null, "", `#/case/${shown.id}`);
  if (location.hash === "#/compare") return showing(null, followupForm(cases, {open, fail}));
  const id = location.hash.match(/^#\/case\/([0-9a-f]{32})$/)?.[1];
  if (!id) return showStart();
  // An answer can come after the address has gone on to another patient or to the start page.
  const isStillAsked = () => location.hash === `#/case/${id}`;
  try {
    const patient = await api.getCase(id);
    keep(patient);
    if (isStillAsked()) showCase(patient);
  } catch (error) {
    if (!isStillAsked()) return;
    showStart();
    fail(error);
  }
}

function open(patient) {
  keep(patient);
  go(`#/case/${patient.id}`);
}

function showStart() {
  showing(
    null,
    startPage({
      upload: send,
      open,
      fail,
    }),
  );
}

async function send(files) {
  if (!files.length) return fail(new Error("The drop holds no file; drop the patient's images."));
  if (!(await mayLeave())) return;
  const abort = new AbortController();
  const page = uploadPage(files, () => abort.abort());
  showing(null, page.element, () => abort.abort());
  try {
    const patient = await api.upload(files, page.progress, abort.signal);
    shown.close = () => {};
    open(patient);
  } catch (error) {
    if (shown.id === null) showStart();
    fail(error);
  }
}

function actionsFor(id) {
  const take = patient => {
    keep(patient);
    if (shown.id === patient.id) showCase(patient);
  };
  const attempt = async ask => {
    notice.hidden = true;
    try {
      take(await ask());
    } catch (error) {
      fail(error);
    }
  };
  return {
    fail,
    replace: keep,
    change: change => attempt(() => api.changeCase(id, change)),
    // The rest of the page stays as it is, and what is being drawn on it.
    rename: async name => {
      try {
        keep(await api.changeCase(id, {name}));
        nameWindow();
      } catch (error) {
        fail(error);
      }
    },
    again: async () => (await mayLeave()) && showSetup(cases.find(known => known.id === id)),
    back: () => showResult(cases.find(known => known.id === id)),
    run: () => attempt(() => api.runCase(id)),
    cancel: () => attempt(() => api.cancelCase(id)),
    remove: async () => {
      if (!(await confirmed("Delete this patient with all images and results from the server?", "Delete"))) return;
      try {
        await api.deleteCase(id);
      } catch (error) {
        return fail(error);
      }
      cases = cases.filter(known => known.id !== id);
      shown.isDrawn = () => false;
      go("#/");
    },
  };
}

function showCase(patient) {
  if (patient.state === "checking" && shown.id === patient.id && main.querySelector(".setup")) return recheck(patient);
  if (api.isMoving(patient)) return showProgress(patient, actionsFor(patient.id));
  if (patient.visits.length) return showFollowup(patient);
  if (patient.state === "done" && patient.result) return showResult(patient);
  showSetup(patient);
}

function showResult(patient) {
  const actions = actionsFor(patient.id);
  const page = resultPage(patient, models, actions);
  showing(
    patient.id,
    el("article.case", {}, caseHeader(patient, summary(patient.result), actions), page.element),
    page.close,
    page.isDrawn,
  );
  announce(`The result of ${patient.name} is there.`);
  page.start();
}

function showFollowup(patient) {
  const actions = actionsFor(patient.id);
  const page = patient.followup && followupPage(patient, actions);
  const body = page?.element ?? againPanel(patient, actions);
  showing(patient.id, el("article.case", {}, caseHeader(patient, listLine(patient), actions), body), page?.close);
  if (page) announce(`The follow-up of ${patient.name} is there.`);
  page?.start();
}

/** Roles and model: before the first run, and again on request beside a result. */
function showSetup(patient) {
  const actions = actionsFor(patient.id);
  const focused = shown.id === patient.id ? document.activeElement?.id : "";
  showing(
    patient.id,
    el(
      "article.case",
      {},
      caseHeader(patient, patient.state === "done" ? "" : listLine(patient), actions),
      patient.result ? rerunNote(actions) : null,
      setupPanel(patient, models, actions),
    ),
  );
  // What was just used is built anew, and must not lose the focus.
  if (focused) document.getElementById(focused)?.focus();
}

/** A change of a role is checked anew: the table stays, and the focus in it, until the answer is there. */
function recheck(patient) {
  main.querySelector(".setup").setAttribute("aria-busy", "true");
  main.querySelector("#run").disabled = true;
  shown.close();
  shown.close = api.watch(
    patient.id,
    news => {
      keep(news);
      if (shown.id === news.id && news.state !== "checking") showCase(news);
    },
    fail,
  );
}

function showProgress(patient, actions) {
  const panel = progressPanel(actions, patient.visits.length > 0);
  const stop = api.watch(
    patient.id,
    news => {
      keep(news);
      if (shown.id !== news.id) return;
      if (api.isMoving(news)) panel.update(news);
      else showCase(news);
    },
    fail,
  );
  showing(patient.id, el("article.case", {}, caseHeader(patient, "", actions), panel.element), stop);
  panel.update(patient);
}

/** The others of the list move on too, though only the one on the page is followed closely. */
async function poll() {
  if (
    document.visibilityState === "visible" &&
    cases.some(patient => api.isMoving(patient) && patient.id !== shown.id)
  ) {
    try {
      cases = await api.listCases();
      drawList();
    } catch {
      /* the next one may come through */
    }
  }
  setTimeout(poll, POLL_MS);
}

async function signOut() {
  const question = "Sign out? All patients of this session are deleted from the server, with their images and results.";
  if (!(await confirmed(question, "Sign out"))) return;
  try {
    await api.signOut();
  } catch (error) {
    return fail(error);
  }
  shown.isDrawn = () => false;
  location.replace("./");
}

async function begin() {
  wireKeys();
  wireDrop(send, fail);
  document.querySelector("#keys").addEventListener("click", showKeys);
  document.querySelector("#sign-out").addEventListener("click", signOut);
  const [known, mine] = await Promise.allSettled([api.listModels(), api.listCases()]);
  if (known.status === "fulfilled") models = known.value;
  if (mine.status === "fulfilled") cases = mine.value;
  // Not before: a change of the address while the lists come would have the same page built twice.
  addEventListener("hashchange", route);
  await route();
  const refused = [known, mine].find(asked => asked.status === "rejected");
  if (refused) fail(refused.reason);
  setTimeout(poll, POLL_MS);
}

begin();
