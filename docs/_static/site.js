// What the theme leaves open: scrolling by keyboard, views of CircuitsVis, meanings under words, folds on paper, the search from a disk.
"use strict";
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false; // a page from a disk may not fetch

// What scrolls sideways can be reached by keyboard.
function reachable() {
  const wide = "pre, .scroll, .pst-scrollable-table-container, div.output, div.text_html, mjx-container, [style*='overflow-x']";
  for (const box of document.querySelectorAll(wide)) {
    const scrolls = box.scrollWidth > box.clientWidth + 1;
    if (scrolls && !box.hasAttribute("tabindex")) { box.tabIndex = 0; box.dataset.scrolls = ""; }
    if (!scrolls && "scrolls" in box.dataset) { box.removeAttribute("tabindex"); delete box.dataset.scrolls; }
  }
}
addEventListener("load", () => (globalThis.MathJax?.startup?.promise ?? Promise.resolve()).then(reachable));
addEventListener("resize", reachable);
document.addEventListener("toggle", reachable, true);

// CircuitsVis: the picture below a view and its label say what its canvases show; words on its colours stay legible.
function mend(view) {
  for (const canvas of view.querySelectorAll("canvas")) canvas.setAttribute("aria-hidden", "true");
  for (const token of view.querySelectorAll("span[style*='background-color']")) {
    const [r, g, b] = token.style.backgroundColor.match(/[\d.]+/g).map((part) => (part / 255) ** 2.2);
    token.style.color = 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? "#000" : "#fff";
  }
}
addEventListener("DOMContentLoaded", () => {
  for (const fold of document.querySelectorAll("nav.bd-links summary")) // the theme's arrows have no words
    fold.setAttribute("aria-label", "Pages of " + (fold.closest("li").querySelector("a")?.textContent.trim() ?? "this chapter"));
  for (const list of document.querySelectorAll("dt.sig dl")) { // a signature's lines: a list of items, and no definitions
    list.setAttribute("role", "list");
    for (const item of list.children) item.setAttribute("role", "listitem");
  }
});
addEventListener("load", () => {
  for (const view of document.querySelectorAll("[data-seen]")) {
    new MutationObserver(() => mend(view)).observe(view, { childList: true, subtree: true });
    mend(view);
  }
  for (const word of document.querySelectorAll("a.term[title]")) { // shown by site.css under pointer and focus
    word.dataset.means = word.title;
    word.setAttribute("aria-description", word.title);
    word.removeAttribute("title");
  }
});

let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const fold of folded) fold.open = true;
});
addEventListener("afterprint", () => { for (const fold of folded) fold.open = false; });

// The contents at the right mark the section one reads.
addEventListener("DOMContentLoaded", () => {
  const links = [...document.querySelectorAll(".bd-sidebar-secondary .page-toc a[href^='#']")];
  const places = links.map((link) => document.getElementById(decodeURIComponent(link.hash.slice(1))));
  const mark = () => {
    const above = places.filter((place) => place && place.getBoundingClientRect().top < innerHeight / 3);
    const here = links[places.indexOf(above.at(-1))];
    for (const link of links) {
      link.classList.toggle("active", link === here);
      link === here ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
    }
  };
  addEventListener("scroll", mark, { passive: true });
  mark();
});
