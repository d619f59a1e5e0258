// Which finished cases are visits of one patient: the choice before a follow-up.

import * as api from "./api.js";
import {el} from "./dom.js";

const CRITERIA = {
  rano2: "RANO 2.0, by diameters",
  "rano2-volume": "RANO 2.0, by volume",
  rano2010: "RANO 2010",
  "rano-lgg": "RANO-LGG",
};

/** A finished case with a mask, of a known voxel size. */
export const canBeVisit = patient =>
  patient.state === "done" && Boolean(patient.result) && patient.result.spacing_known !== false;

/**
 * @param {import("./api.js").Case[]} cases of this session
 * @param {{open: (patient: import("./api.js").Case) => void, fail: (error: Error) => void}} actions
 */
export function followupForm(cases, actions) {
  const chosen = [];
  const rows = cases.filter(canBeVisit).map(patient => row(patient, chosen, () => show()));
  const criterion = el(
    "select",
    {id: "criterion"},
    ...Object.entries(CRITERIA).map(([value, text]) => el("option", {value}, text)),
  );
  const begin = el("button.primary", {type: "submit", id: "follow", disabled: true}, "Compare the visits");
  const order = el("p.quiet-text", {id: "order", role: "status"});
  const show = () => {
    begin.disabled = chosen.length < 2;
    const isDated = chosen.every(({date}) => date.value);
    for (const {patient, place} of rows.map(({about}) => about)) {
      const at = chosen.findIndex(own => own.patient === patient);
      place.textContent = at < 0 || isDated ? "" : `${at + 1}.`;
    }
    order.textContent =
      chosen.length < 2
        ? "Mark at least two."
        : isDated
          ? "The visits are put in order by their dates."
          : "Not every visit has a date: they stand in the order in which they were marked, without days.";
  };
  show();
  const send = async event => {
    event.preventDefault();
    begin.disabled = true;
    const visits = chosen.map(({patient, date}) => ({case: patient.id, date: date.value || null}));
    try {
      actions.open(await api.follow({visits, criterion: criterion.value}));
    } catch (error) {
      actions.fail(error);
      begin.disabled = false;
    }
  };
  return el(
    "form.followup-form",
    {onsubmit: send},
    el("h1", {tabIndex: -1}, "Compare visits"),
    el("p", {}, "Mark the finished cases that are visits of one patient. They are registered to the first one."),
    rows.length < 2
      ? el("p.message.plain", {}, "At least two finished cases are needed; open and run them first.")
      : el("ul.visit-choice", {}, ...rows.map(({element}) => element)),
    order,
    el("div.run", {}, el("label", {}, "Criteria", criterion), begin),
  );
}

function row(patient, chosen, onChange) {
  const place = el("span.place");
  const date = el("input", {
    type: "date",
    value: patient.date ?? "",
    "aria-label": `Date of ${patient.name}`,
    onchange: onChange,
  });
  const about = {patient, place, date};
  const box = el("input", {
    type: "checkbox",
    onchange: () => {
      if (box.checked) chosen.push(about);
      else chosen.splice(chosen.indexOf(about), 1);
      onChange();
    },
  });
  const element = el("li", {}, el("label.check", {}, box, el("span.name", {}, patient.name)), place, date);
  return {element, about};
}
