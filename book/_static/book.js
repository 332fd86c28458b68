// Small mends to the theme's pages; runs before the theme's own scripts.
"use strict";

// Dark from the first paint where the reader's system asks for it: the theme's own script runs only after the page.
if (!document.documentElement.dataset.theme) {
  document.documentElement.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

document.addEventListener("DOMContentLoaded", () => {
  // A page without sections has no second sidebar; the theme's script expects one and throws.
  if (!document.querySelector("div.bd-sidebar-secondary")) {
    const sidebar = document.createElement("div");
    sidebar.className = "bd-sidebar-secondary";
    sidebar.hidden = true;
    document.body.append(sidebar);
  }
  // Search shows a few lines of each page that it finds; from file:// a browser does not let it read them.
  if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS === "object") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
});
