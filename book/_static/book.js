// Small mends to the theme's pages. Deferred, and listed before MathJax: it runs once the page is read, before theirs.
"use strict";

(() => {
  // A page without sections has no second sidebar; the theme's script expects one and throws.
  if (!document.querySelector("div.bd-sidebar-secondary")) {
    const sidebar = document.createElement("div");
    sidebar.className = "bd-sidebar-secondary";
    sidebar.hidden = true;
    document.body.append(sidebar);
  }

  // Search shows a few lines of each page that it finds; from the disk or in a sandbox a browser does not let it read them.
  if (window.origin === "null" && typeof DOCUMENTATION_OPTIONS === "object") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

  // An equation or a figure wider than its column scrolls; the keyboard must reach it to do so.
  function reach() {
    for (const box of document.querySelectorAll("div.math mjx-container, .bd-article span.math, .bd-content figure")) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  }
  addEventListener("load", reach);
  addEventListener("resize", reach);

  // A link to what stands in a folded note or solution opens it.
  function unfold() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const box = target?.closest(".toggle-hidden");
    if (!box) return;
    box.querySelector(".toggle-button").click();
    target.scrollIntoView();
  }
  addEventListener("load", unfold);
  addEventListener("hashchange", unfold);

  // On paper all solutions and answers are open.
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((box) => (box.open = true)));

  // A full stop or comma stays on the line of the formula before it.
  function keepTogether(formula) {
    const after = formula.nextSibling, marks = after?.nodeType === Node.TEXT_NODE && after.data.match(/^[.,;:?!)]+/);
    if (!marks || formula.tagName !== "SPAN") return;
    const box = document.createElement("span");
    box.style.whiteSpace = "nowrap";
    formula.replaceWith(box);
    box.append(formula, marks[0]);
    after.data = after.data.slice(marks[0].length);
  }

  // Mathematics is set in groups, from what is in view on, with a pause between: the page answers while the rest is set.
  // The first group is small, to answer soon; the others are larger, since each costs the page a layout.
  async function typeset() {
    const all = [...document.querySelectorAll(".math.notranslate")];
    const first = Math.max(0, all.findIndex((element) => element.getBoundingClientRect().bottom > 0));
    const order = [...all.slice(first), ...all.slice(0, first)];
    for (let start = 0, end = 16; start < order.length; start = end, end += 64) {
      const group = order.slice(start, end);
      await MathJax.typesetPromise(group);
      group.forEach(keepTogether);
      if (start === 0) performance.mark("first-mathematics");
      await new Promise((resolve) => setTimeout(resolve));
    }
    await MathJax.typesetPromise();  // what stands outside, in the output of a cell
    reach();
  }
  if (window.MathJax) window.MathJax.startup = { pageReady: typeset };
})();
