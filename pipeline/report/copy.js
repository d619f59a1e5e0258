"use strict";
// A page that is opened as a file may have no clipboard: then a selected text is copied the old way.
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "aside";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}
for (const button of document.querySelectorAll("button.copy")) {
  button.hidden = false;
  const said = button.parentElement.querySelector(".said");
  button.addEventListener("click", async () => {
    const text = document.getElementById(button.dataset.of).textContent;
    said.textContent = await copyText(text) ? `Copied as ${button.dataset.as}.` : "Not copied: open the texts below.";
  });
}
