// Run in the page that reader.py opens: what it asks about.
"use strict";

window.visit = {
  // Wait until the mathematics is set and the fonts are there.
  async ready() {
    await window.MathJax?.startup?.promise;
    await document.fonts.ready;
  },

  // Formulas in the text, those set, those that failed, fonts in use.
  mathematics() {
    const count = (selector) => document.querySelectorAll(selector).length;
    const fonts = [...document.fonts].filter((font) => font.status === "loaded").length;
    return [count(".math.notranslate"), count(".math.notranslate mjx-container"), count("mjx-merror"), fonts];
  },

  // The levels of the headings of the text, in order.
  headings() {
    const headings = document.querySelectorAll(":is(.bd-article, .bd-search-container) :is(h1,h2,h3,h4,h5,h6)");
    return [...headings].map((heading) => Number(heading.tagName[1]));
  },

  // Whether the keyboard reaches what is wider than its column: 0 is yes.
  scrolling() {
    return [...document.querySelectorAll("div.math mjx-container, .bd-content figure")]
      .filter((box) => box.scrollWidth > box.clientWidth).map((box) => box.tabIndex);
  },

  // Axe looks at every element there is: one token of each kind of code, the words of each formula, and three objects of
  // each kind on the page of the package, are enough.
  thin() {
    const seen = new Set();
    const count = {};
    for (const object of document.querySelectorAll(".bd-article dl.py")) {
      count[object.className] = (count[object.className] ?? 0) + 1;
      if (count[object.className] > 3) object.remove();
    }
    for (const token of document.querySelectorAll(".highlight pre span, .sig span")) {
      if (!token.children.length && seen.size === seen.add(token.className).size) token.replaceWith(token.textContent);
    }
    for (const formula of document.querySelectorAll("mjx-container")) {
      formula.replaceWith(formula.querySelector("mjx-assistive-mml").textContent);
    }
    document.body.normalize();
  },

  async violations(context, options) {
    const found = await axe.run(context, { ...options, resultTypes: ["violations"], preload: false });
    const place = (node) => `${node.target.join(" ")}: ${node.failureSummary}`;
    return found.violations.map((violation) => [violation.id, violation.impact, violation.nodes.map(place)]);
  },

  // Every rule but contrast, everywhere.
  axe() {
    return visit.violations(document, { rules: { "color-contrast": { enabled: false } } });
  },

  // Contrast, of the first text of each kind, what an element and three around it are called, that was not seen before.
  async contrast(seen) {
    const kinds = new Map(), old = new Set(seen);
    for (const element of document.body.querySelectorAll("*")) {
      if (![...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim())) continue;
      const names = [];
      for (let e = element, i = 0; i < 4 && e; e = e.parentElement, i++) names.push(`${e.tagName}.${e.className}`);
      const kind = names.join();
      if (!old.has(kind) && !kinds.has(kind) && element.checkVisibility()) kinds.set(kind, element);
    }
    if (!kinds.size) return [[], []];
    const only = { runOnly: { type: "rule", values: ["color-contrast"] } };
    return [await visit.violations({ include: [...kinds.values()] }, only), [...kinds.keys()]];
  },

  // How much wider than the screen the page is, and what sticks out of it without a box that scrolls or clips.
  sticksOut() {
    const width = document.documentElement.clientWidth;
    const boxed = (element) => {
      for (let parent = element.parentElement; parent && parent !== document.body; parent = parent.parentElement) {
        if (getComputedStyle(parent).overflowX !== "visible") return true;
      }
      return false;
    };
    const out = [...document.querySelectorAll("main *, header *")].filter((element) => {
      const box = element.getBoundingClientRect();
      return box.width && box.right > width + 1 && getComputedStyle(element).position !== "fixed" && !boxed(element);
    });
    const names = out.slice(0, 5).map((element) => `${element.tagName}.${element.className}: ${element.textContent.slice(0, 60)}`);
    return [document.scrollingElement.scrollWidth - width, names];
  },

  // Code, formulas, tables and figures that end beyond the screen and lie in nothing that scrolls.
  cutOff() {
    const kinds = ["pre", "div.math", "table", "img", "canvas"].map((kind) => `.bd-article ${kind}`).join();
    const scrolls = (element) => {
      for (let e = element; e && !e.matches(".bd-article"); e = e.parentElement) {
        if (["auto", "scroll"].includes(getComputedStyle(e).overflowX)) return true;
      }
      return false;
    };
    const width = document.documentElement.clientWidth;
    return [...document.querySelectorAll(kinds)]
      .filter((e) => e.getClientRects().length && e.getBoundingClientRect().left + e.scrollWidth > width + 1 && !scrolls(e))
      .map((e) => `${e.tagName}: ${e.textContent.slice(0, 60)}`);
  },
};
