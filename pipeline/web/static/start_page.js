// The empty page: where files go in, examples to try, earlier results.

import * as api from "./api.js";
import {announce, el, fill} from "./dom.js";
import {chosenFiles} from "./drop.js";
import {bytes} from "./format.js";

/**
 * @typedef {Object} StartActions
 * @property {(files: import("./drop.js").Found[]) => void} upload
 * @property {(patient: api.Case) => void} open
 * @property {(error: Error) => void} fail
 */

/**
 * @param {StartActions} actions
 */
export function startPage(actions) {
  const files = el("input.unseen", {
    type: "file",
    multiple: true,
    tabIndex: -1,
    "aria-hidden": "true",
    id: "choose-files",
    onchange: () => files.files.length && actions.upload(chosenFiles(files)),
  });
  const folder = el("input.unseen", {
    type: "file",
    multiple: true,
    webkitdirectory: true,
    tabIndex: -1,
    "aria-hidden": "true",
    id: "choose-folder",
    onchange: () => folder.files.length && actions.upload(chosenFiles(folder)),
  });
  const page = el(
    "div.start",
    {},
    el(
      "section.dropzone",
      {"aria-labelledby": "start-title"},
      el("h1", {id: "start-title", tabIndex: -1}, "Open a patient"),
      el("p.lead", {}, "Drop the MRI anywhere on this page."),
      el(
        "p",
        {},
        "T1, contrast-enhanced T1, T2 and FLAIR: the DICOM folder of an examination, NIfTI files, a .zip of either, " +
          "a BraTS folder or a stack of slices. One file alone works too, where a model takes it. A reference mask " +
          "among them is compared with the result.",
      ),
      el(
        "div.actions",
        {},
        el("button.primary", {type: "button", onclick: () => files.click()}, "Choose files…"),
        el("button", {type: "button", onclick: () => folder.click()}, "Choose a folder…"),
      ),
      files,
      folder,
    ),
    shelf(
      "Try an example",
      "Phantom patients: simulated heads, with a tumour whose truth is known.",
      "gallery",
      api.listGallery,
      api.openGallery,
      actions,
    ),
    shelf(
      "Earlier results",
      "Finished patients of earlier runs on this server.",
      "results",
      api.listResults,
      api.openResult,
      actions,
    ),
  );
  return page;
}

function shelf(title, text, kind, list, open, actions) {
  const section = el(`section.shelf.${kind}`, {hidden: true});
  list()
    .then(items => {
      if (!items?.length) return;
      const pick = async (item, button) => {
        button.disabled = true;
        const waiting = el("span.opening", {}, "Opening…");
        button.append(waiting);
        announce(`Opening ${item.title}`);
        try {
          actions.open(await open(item.id));
        } catch (error) {
          actions.fail(error);
        }
        waiting.remove();
        button.disabled = false;
      };
      fill(
        section,
        el("h2", {}, title),
        el("p.quiet-text", {}, text),
        el(
          "ul.cards",
          {},
          ...items.map(item => {
            const button = el(
              "button.card",
              {type: "button", onclick: () => pick(item, button)},
              el("strong", {}, item.title),
              item.text ? el("span", {}, item.text) : null,
            );
            return el("li", {}, button);
          }),
        ),
      );
      section.hidden = false;
    })
    .catch(actions.fail);
  return section;
}

/**
 * What is seen while files are sent.
 * @param {import("./drop.js").Found[]} files
 * @param {() => void} onCancel
 * @returns {{element: HTMLElement, progress: (share: number) => void}}
 */
export function uploadPage(files, onCancel) {
  const size = files.reduce((sum, {file}) => sum + file.size, 0);
  const bar = el("progress", {max: 1, value: 0, "aria-label": "Upload"});
  const said = el("p.quiet-text");
  const first = files[0]?.path ?? "";
  const element = el(
    "section.panel.working",
    {},
    el("h1", {tabIndex: -1}, "Sending the images"),
    el("p", {}, files.length === 1 ? first : `${files.length} files, the first is ${first}`),
    bar,
    said,
    el("div.actions", {}, el("button", {type: "button", onclick: onCancel}, "Cancel")),
  );
  const progress = share => {
    bar.value = share;
    said.textContent = share < 1 ? `${bytes(share * size)} of ${bytes(size)}` : "Checking the images…";
    if (share >= 1) announce("The images have arrived and are being checked.");
  };
  progress(0);
  return {element, progress};
}
