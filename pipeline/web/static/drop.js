// Files and folders that are dropped anywhere on the page or chosen, with the folders they lie in.

/**
 * @typedef {{file: File, path: string}} Found
 */

/**
 * Take what is dropped anywhere on the page.
 * @param {(files: Found[]) => void} onFiles
 * @param {(error: Error) => void} onError
 */
export function wireDrop(onFiles, onError) {
  let depth = 0;
  const veil = document.querySelector("#veil");
  const carriesFiles = event => Array.from(event.dataTransfer?.types ?? []).includes("Files");
  const show = on => {
    veil.hidden = !on;
  };
  addEventListener("dragenter", event => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    depth++;
    show(true);
  });
  addEventListener("dragover", event => carriesFiles(event) && event.preventDefault());
  addEventListener("dragleave", event => {
    if (carriesFiles(event) && --depth <= 0) {
      depth = 0;
      show(false);
    }
  });
  addEventListener("drop", async event => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    depth = 0;
    show(false);
    try {
      onFiles(await droppedFiles(event.dataTransfer));
    } catch (error) {
      onError(error);
    }
  });
}

async function droppedFiles(transfer) {
  // The entries must be taken before the first await: after it the browser has emptied the list.
  const entries = Array.from(transfer.items ?? [])
    .map(item => item.webkitGetAsEntry?.())
    .filter(Boolean);
  if (!entries.length) return Array.from(transfer.files).map(file => ({file, path: file.name}));
  return (await Promise.all(entries.map(walk))).flat();
}

async function walk(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return isHidden(entry.name) ? [] : [{file, path: entry.fullPath.replace(/^\//, "")}];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    // A reader gives at most a hundred entries at a time, and an empty list at the end.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return (await Promise.all(found.map(walk))).flat();
    found.push(...some);
  }
}

/** Files of the operating system, such as .DS_Store. */
const isHidden = name => name.startsWith(".") || name === "Thumbs.db" || name === "desktop.ini";

/** What an <input type=file> holds. */
export function chosenFiles(input) {
  return Array.from(input.files)
    .filter(file => !isHidden(file.name))
    .map(file => ({file, path: file.webkitRelativePath || file.name}));
}
