// The search page: MiniSearch over what search-data.js brings.
"use strict";
const input = document.querySelector("[role=search] input"), list = document.getElementById("results");
const found = document.getElementById("found"), asked = found.textContent;
const rank = { glossary: 1.6, claim: 1.2 };
const search = new MiniSearch({
  fields: ["title", "text"],
  storeFields: ["title", "text", "address", "kind"],
  searchOptions: {
    boost: { title: 4 }, prefix: true, combineWith: "AND", fuzzy: (term) => (term.length > 5 ? 0.2 : false),
    boostDocument: (id, term, stored) => rank[stored.kind] ?? 1,
  },
});
search.addAll(RECORDS);

// The words around the first match, matches marked.
function snippet(text, terms) {
  const any = new RegExp(terms.map((term) => term.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&")).join("|"), "giu");
  const at = Math.max(0, text.search(any)), from = at < 60 ? 0 : text.indexOf(" ", at - 60) + 1;
  const part = text.slice(from, from + 220), paragraph = document.createElement("p");
  let end = 0;
  for (const match of part.matchAll(any)) {
    paragraph.append(part.slice(end, match.index), Object.assign(document.createElement("mark"), { textContent: match[0] }));
    end = match.index + match[0].length;
  }
  paragraph.append(part.slice(end) + (text.length > from + 220 ? " …" : ""));
  if (from) paragraph.prepend("… ");
  return paragraph;
}

function shown(result) {
  const item = document.createElement("li"), head = document.createElement("p");
  head.append(Object.assign(document.createElement("a"), { href: result.address, textContent: result.title }));
  head.append(Object.assign(document.createElement("span"), { className: "soft", textContent: ` · ${result.kind}` }));
  item.append(head, snippet(result.text, result.terms));
  return item;
}

function look() {
  const results = search.search(input.value);
  list.replaceChildren(...results.slice(0, 30).map(shown));
  const many = results.length > 30 ? `, the best 30 are shown` : "";
  found.textContent = input.value.trim() ? `${results.length} found${many}.` : asked;
  try { history.replaceState(null, "", `?q=${encodeURIComponent(input.value)}`); } catch {} // not on every file:// page
}

input.value = new URLSearchParams(location.search).get("q") ?? "";
input.form.addEventListener("submit", (event) => { event.preventDefault(); look(); });
input.addEventListener("input", look);
look();
if (!location.hash) input.focus();
