// Elements made from data. Text goes in as text and never as HTML, so a name from outside is only ever shown.

/**
 * Make an element.
 * @param {string} tag a tag, with classes after dots: "button.quiet.small"
 * @param {Object<string, any>} [properties] `on*` are listeners, `data` a dataset, `aria-*`, `role` and the other names
 *   with a hyphen attributes, the rest properties; undefined and null are left out
 * @param {...(Node|string|number|null|false|undefined)} children texts and nodes, without null, undefined, false
 * @returns {HTMLElement}
 */
export function el(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  element.classList.add(...classes);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "data") Object.assign(element.dataset, value);
    else if (key.includes("-") || ["role", "for", "scope", "colspan", "list"].includes(key))
      element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.flat().filter(isShown));
  return element;
}

function isShown(child) {
  return child !== null && child !== undefined && child !== false;
}

/** Replace everything inside a node. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat().filter(isShown));
  return node;
}

/** Say something to a screen reader without moving the focus. */
export function announce(text) {
  const region = document.querySelector("#announce");
  if (region.textContent !== text) region.textContent = text;
}

/** A swatch of a region's colour (the colour is set by script: the policy allows no style attribute). */
export function swatch(colour) {
  const mark = el("i.swatch", {"aria-hidden": "true"});
  mark.style.backgroundColor = /^#[0-9a-f]{6}$/i.test(colour) ? colour : "#999999";
  return mark;
}

let groups = 0;

/**
 * One choice of several, as radio buttons that look like a row of buttons.
 * @param {string} legend what a screen reader says; hidden from sight
 * @param {Array<{value: string, text: string, title?: string}>} choices
 * @param {string} chosen
 * @param {(value: string) => void} onChoice
 * @returns {HTMLElement & {choose: (value: string) => void}} `choose` sets it without calling onChoice
 */
export function segmented(legend, choices, chosen, onChoice) {
  const name = `choice-${++groups}`;
  const inputs = choices.map(({value}) =>
    el("input", {
      type: "radio",
      name,
      value,
      checked: value === chosen,
      onchange: () => onChoice(value),
    }),
  );
  const labels = choices.map(({text, title}, i) => el("label", {title}, inputs[i], el("span", {}, text)));
  const group = el("fieldset.segmented", {}, el("legend.unseen", {}, legend), ...labels);
  group.choose = value => {
    for (const input of inputs) input.checked = input.value === value;
  };
  return group;
}

/**
 * Ask before something that cannot be undone.
 * @returns {Promise<boolean>}
 */
export function confirmed(question, action) {
  return new Promise(resolve => {
    const dialog = el(
      "dialog.ask",
      {"aria-label": question},
      el("p", {}, question),
      el(
        "div.actions",
        {},
        el("button.quiet", {type: "button", autofocus: true, onclick: () => dialog.close()}, "Keep"),
        el("button.danger", {type: "button", onclick: () => dialog.close("yes")}, action),
      ),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
