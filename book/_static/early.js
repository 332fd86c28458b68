// The reader's choice of light or dark, or else the system's, from the first paint: the theme's own script runs only after
// the page, and complains where no mode was chosen.
(() => {
  const root = document.documentElement;
  root.dataset.mode ||= "auto";
  root.dataset.theme ||= matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
})();
