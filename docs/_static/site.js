// Every page: the theme, "/" for the search, scrolling by keyboard, and open folds on paper.
"use strict";
const root = document.documentElement, toggle = document.getElementById("theme");
const system = matchMedia("(prefers-color-scheme: dark)");
const dark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";

function name() {
  toggle.textContent = dark() ? "☀ Light" : "☾ Dark";
  toggle.setAttribute("aria-label", dark() ? "Light theme" : "Dark theme");
}

toggle.hidden = false;
toggle.addEventListener("click", () => {
  const wanted = dark() ? "light" : "dark";
  root.dataset.theme = wanted === (system.matches ? "dark" : "light") ? "" : wanted; // back to the system's where it agrees
  try { localStorage.setItem("theme", root.dataset.theme); } catch {}
  name();
});
system.addEventListener("change", name);
name();

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, [contenteditable]");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    document.querySelector("[role=search] input").focus();
  }
});

// What scrolls sideways can be reached by keyboard.
function reachable() {
  const wide = "pre, .scroll, .output_area, .text_cell_render, mjx-container, [style*='overflow-x']";
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
addEventListener("load", () => {
  for (const view of document.querySelectorAll("[data-seen]")) {
    new MutationObserver(() => mend(view)).observe(view, { childList: true, subtree: true });
    mend(view);
  }
});

const narrow = matchMedia("(max-width: 86rem)"), contents = document.querySelector(".sections details");
if (contents && narrow.matches) contents.open = false;

let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const fold of folded) fold.open = true;
});
addEventListener("afterprint", () => { for (const fold of folded) fold.open = false; });
