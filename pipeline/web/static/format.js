// Numbers, names and times as they are read. Nothing is shown that is not known.

export const MODALITIES = ["t1", "t1c", "t2", "flair"];

const ROLE_NAMES = {t1: "T1", t1c: "T1c", t2: "T2", flair: "FLAIR", reference: "Reference mask"};
const REGION_NAMES = {WT: "Whole tumour", TC: "Tumour core", ET: "Enhancing tumour", RC: "Resection cavity"};
const STATES = {
  checking: "checking",
  ready: "ready to run",
  queued: "waiting",
  running: "running",
  done: "done",
  failed: "failed",
  cancelled: "cancelled",
  interrupted: "interrupted",
};
const STAGES = {
  read: "Reading the images",
  prepare: "Registering and stripping the images",
  preprocess: "Preparing the images for the network",
  network: "Running the network",
  restore: "Bringing the mask back to the scan",
  metrics: "Measuring",
  write: "Writing the files",
  preview: "Drawing the picture",
};

export const STAGE_ORDER = ["read", "prepare", "preprocess", "network", "restore", "metrics", "write", "preview"];
export const roleName = role => ROLE_NAMES[role] ?? String(role);
export const regionName = region => REGION_NAMES[region] ?? String(region);
export const stateName = state => STATES[state] ?? String(state);
export const stageName = stage => STAGES[stage] ?? String(stage);

/** True for a number that can be shown. */
export const isNumber = value => typeof value === "number" && Number.isFinite(value);

/** A number with a real minus sign; an en dash where it is not known. */
export function fixed(value, digits) {
  if (!isNumber(value)) return "–";
  const text = value.toFixed(digits);
  return /^-0\.?0*$/.test(text) ? text.slice(1) : text.replace("-", "−");
}

/** ml and mm: two decimals below 10, one above. */
export const measure = value => fixed(value, isNumber(value) && Math.abs(value) < 10 ? 2 : 1);

export const millilitres = value => (isNumber(value) ? `${measure(value)} ml` : "–");

/** Intensities: as many digits as the range needs to tell its 256 steps apart. */
export function digitsFor(range) {
  return Math.min(6, Math.max(0, Math.ceil(-Math.log10(Math.max(range, 1e-9) / 256))));
}

export function duration(seconds) {
  if (!isNumber(seconds)) return "";
  const whole = Math.max(1, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

export function bytes(count) {
  if (!isNumber(count)) return "";
  const units = ["B", "KB", "MB", "GB"];
  let value = count,
    unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** A server's time (seconds since 1970, or ISO 8601) on the reader's own clock; "" without one. */
export function clock(value) {
  const date = value === null || value === undefined ? null : new Date(isNumber(value) ? value * 1000 : value);
  if (!date || Number.isNaN(date.getTime())) return "";
  const today = date.toDateString() === new Date().toDateString();
  return date.toLocaleString(undefined, today ? {timeStyle: "short"} : {dateStyle: "medium", timeStyle: "short"});
}

export const shape = dims => (Array.isArray(dims) ? dims.join(" × ") : "–");

export const spacing = steps =>
  Array.isArray(steps)
    ? steps.map(step => (isNumber(step) ? String(Math.round(step * 100) / 100) : "–")).join(" × ")
    : "–";

/** "a, b and c" */
export function listed(texts) {
  return texts.length < 2 ? texts.join("") : `${texts.slice(0, -1).join(", ")} and ${texts.at(-1)}`;
}
