// The server's REST API. Every failure is an Error whose message is the server's own sentence.

/**
 * @typedef {Object} CaseFile an image of a patient
 * @property {string} id
 * @property {string} name
 * @property {string|null} role
 * @property {string|null} detected_role
 * @property {string|null} problem
 */

/**
 * @typedef {Object} Case a patient of this session, as GET /api/cases/{id} gives it
 * @property {string} id
 * @property {string} name
 * @property {"checking"|"ready"|"queued"|"running"|"done"|"failed"|"cancelled"|"interrupted"} state
 * @property {CaseFile[]} files
 * @property {number} progress 0 to 1
 * @property {Object|null} result
 * @property {string} date of the scan, or ""
 * @property {Array<Object>} visits of a follow-up; else empty
 * @property {Object|null} followup
 */

const ENDED = ["done", "failed", "cancelled", "interrupted"];
const MOVING = ["checking", "queued", "running"];

export const isMoving = patient => MOVING.includes(patient.state);

async function request(method, path, body) {
  const options = {method, headers: {Accept: "application/json"}};
  if (body instanceof Blob) {
    options.body = body;
    options.headers["Content-Type"] = "application/octet-stream";
  } else if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer; check that it still runs, then try again.");
  }
  return answer(response.status, await response.text());
}

function answer(status, text) {
  let said = null;
  try {
    said = text ? JSON.parse(text) : null;
  } catch {
    /* not JSON: a proxy's page, say */
  }
  if (status >= 200 && status < 300) return said;
  if (status === 401) location.assign("login");
  throw new Error(said?.error ?? `The server answered with status ${status}; try again.`);
}

const at = id => `api/cases/${encodeURIComponent(id)}`;

export const listModels = () => request("GET", "api/models");
export const listGallery = () => request("GET", "api/gallery");
export const openGallery = id => request("POST", `api/gallery/${encodeURIComponent(id)}`, {});
export const listResults = () => request("GET", "api/results");
export const openResult = id => request("POST", `api/results/${encodeURIComponent(id)}`, {});
export const signOut = () => request("POST", "api/sign-out", {});
export const listCases = () => request("GET", "api/cases");
export const getCase = id => request("GET", at(id));
export const changeCase = (id, change) => request("PATCH", at(id), change);
export const runCase = id => request("POST", `${at(id)}/run`, {});
export const cancelCase = id => request("POST", `${at(id)}/cancel`, {});
export const follow = marks => request("POST", "api/followups", marks);
export const deleteCase = id => request("DELETE", at(id));
export const saveEdit = (id, nifti) => request("POST", `${at(id)}/edits`, nifti);

/** An address of the server's, relative to the page: a proxy may have put both behind a path. */
export const here = url => url.replace(/^\//, "");

/** The bytes of one of a case's files. */
export async function fetchBytes(url) {
  const response = await fetch(here(url));
  if (!response.ok) answer(response.status, await response.text());
  return new Uint8Array(await response.arrayBuffer());
}

/**
 * Upload a patient's files (XMLHttpRequest: fetch tells no progress of what is sent).
 * @param {Array<{file: File, path: string}>} files `path` holds the folders as the browser gives them
 * @param {(share: number) => void} onProgress
 * @param {AbortSignal} signal
 * @returns {Promise<Case>}
 */
export function upload(files, onProgress, signal) {
  const form = new FormData();
  for (const {file, path} of files) form.append("files", file, path);
  return new Promise((resolve, reject) => {
    const sent = new XMLHttpRequest();
    sent.open("POST", "api/cases");
    sent.setRequestHeader("Accept", "application/json");
    sent.upload.addEventListener("progress", event => event.lengthComputable && onProgress(event.loaded / event.total));
    sent.addEventListener("load", () => {
      try {
        resolve(answer(sent.status, sent.responseText));
      } catch (error) {
        reject(error);
      }
    });
    sent.addEventListener("error", () =>
      reject(
        new Error(
          "The upload broke off. The server is gone, or the files are larger than it takes: try fewer files.",
        ),
      ),
    );
    sent.addEventListener("abort", () => reject(new DOMException("The upload was cancelled.", "AbortError")));
    signal.addEventListener("abort", () => sent.abort());
    sent.send(form);
  });
}

/**
 * Follow a case until it has ended.
 * @param {string} id
 * @param {(patient: Case) => void} onCase at every change
 * @param {(error: Error) => void} onError when it can no longer be followed
 * @returns {() => void} stop following
 */
export function watch(id, onCase, onError) {
  let source = null,
    timer = 0,
    stopped = false;
  const stop = () => {
    stopped = true;
    clearTimeout(timer);
    source?.close();
  };
  const take = patient => {
    if (stopped) return;
    if (ENDED.includes(patient.state) || patient.state === "ready") stop();
    onCase(patient);
  };
  // The browser comes back by itself after a broken line, but not after an answer that is no stream: then ask.
  const ask = async () => {
    try {
      take(await getCase(id));
    } catch (error) {
      stop();
      onError(error);
    }
    if (!stopped) open();
  };
  const open = () => {
    source = new EventSource(`${at(id)}/events`);
    source.addEventListener("message", event => take(JSON.parse(event.data)));
    source.addEventListener("error", () => {
      if (stopped || source.readyState !== EventSource.CLOSED) return;
      timer = setTimeout(ask, 2000);
    });
  };
  open();
  return stop;
}
