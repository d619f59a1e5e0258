// A model card's Markdown as elements: headings, paragraphs, lists, tables, code. Nothing in it becomes HTML or a link.

import {el} from "./dom.js";

/**
 * @param {string} text
 * @returns {HTMLElement}
 */
export function markdown(text) {
  const card = el("div.card-text");
  const lines = String(text).split(/\r?\n/);
  let i = 0;
  while (i < lines.length) {
    const line = lines[i];
    const heading = line.match(/^(#{1,6})\s+(.*)$/);
    if (!line.trim()) i++;
    else if (heading) {
      card.append(el(`h${Math.min(6, heading[1].length + 3)}`, {}, ...inline(heading[2])));
      i++;
    } else if (/^( {4}|```)/.test(line)) i = code(card, lines, i);
    else if (line.startsWith("|")) i = table(card, lines, i);
    else if (/^\s*([-*]|\d+\.)\s+/.test(line)) i = list(card, lines, i);
    else i = paragraph(card, lines, i);
  }
  return card;
}

function paragraph(card, lines, i) {
  const texts = [];
  while (i < lines.length && lines[i].trim() && !/^(#|\||```|\s*[-*]\s)/.test(lines[i])) texts.push(lines[i++].trim());
  if (!texts.length) texts.push(lines[i++].trim());
  card.append(el("p", {}, ...inline(texts.join(" "))));
  return i;
}

function list(card, lines, i) {
  const items = [];
  for (; i < lines.length && lines[i].trim() && !/^(#|\|)/.test(lines[i]); i++) {
    const item = lines[i].match(/^\s*(?:[-*]|\d+\.)\s+(.*)$/);
    if (item || !items.length) items.push(item ? item[1] : lines[i].trim());
    else items[items.length - 1] += ` ${lines[i].trim()}`;
  }
  card.append(el("ul", {}, ...items.map(item => el("li", {}, ...inline(item)))));
  return i;
}

function code(card, lines, i) {
  const texts = [];
  if (lines[i].startsWith("```")) {
    for (i++; i < lines.length && !lines[i].startsWith("```"); i++) texts.push(lines[i]);
    i++;
  } else {
    while (i < lines.length && lines[i].startsWith("    ")) texts.push(lines[i++].slice(4));
  }
  card.append(el("pre", {tabIndex: 0}, texts.join("\n")));
  return i;
}

function table(card, lines, i) {
  const rows = [];
  while (i < lines.length && lines[i].startsWith("|")) {
    rows.push(
      lines[i++]
        .replace(/^\||\|\s*$/g, "")
        .split("|")
        .map(cell => cell.trim()),
    );
  }
  const body = rows.slice(1).filter(row => !row.every(cell => /^:?-+:?$/.test(cell)));
  card.append(
    el(
      "div.scroll",
      {tabIndex: 0, role: "region", "aria-label": `Table: ${rows[0].join(", ")}`},
      el(
        "table",
        {},
        el("thead", {}, el("tr", {}, ...rows[0].map(cell => el("th", {scope: "col"}, ...inline(cell))))),
        el("tbody", {}, ...body.map(row => el("tr", {}, ...row.map(cell => el("td", {}, ...inline(cell)))))),
      ),
    ),
  );
  return i;
}

function inline(text) {
  return text
    .split(/(`[^`]+`|\*\*[^*]+\*\*)/)
    .filter(Boolean)
    .map(part => {
      if (part.length > 2 && part.startsWith("`")) return el("code", {}, part.slice(1, -1));
      if (part.length > 4 && part.startsWith("**")) return el("strong", {}, part.slice(2, -2));
      return part;
    });
}
