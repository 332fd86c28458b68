// What the live figures share: colours that follow the theme, canvases, controls, and one redraw a frame while something
// changes. Nothing moves by itself, so there is no motion to reduce. Plain script, no module: it must run from file://.
"use strict";

const ctmDraw = (() => {
  const FOLDER = document.currentScript.src.replace(/[^/]*$/, "live/");
  const LIGHT = { data: "#555555", noise: "#999999", exact: "#0072B2", euler: "#009E73", student: "#D55E00", ink: "#222222", faint: "#cccccc" };
  const DARK = { data: "#c0c0c0", noise: "#8f8f8f", exact: "#56B4E9", euler: "#2fc39b", student: "#ff9d5c", ink: "#dddddd", faint: "#505050" };
  const colours = () => (document.documentElement.dataset.theme === "dark" ? DARK : LIGHT);

  const NAMES = { two_gaussians: "two modes on a line", ring: "ring", two_moons: "two moons", pinwheel: "pinwheel" };
  // The stored models of each world in the plane, by file and by what the reader is told. The first is drawn at once.
  const MODELS = {
    ring: [["ring_small", "small, trained to the end"], ["ring_small_quick", "small, 400 steps"], ["ring_exact", "ten times larger"],
      ["ring_scratch", "larger, without a teacher"], ["ring_cm", "larger, consistency model"]],
    two_moons: [["two_moons_small", "small, trained to the end"]],
    pinwheel: [["pinwheel_small", "small, trained to the end"]],
  };
  const loaded = {};

  // A world or a stored model by its name, from the script that the build wrote for it.
  function load(kind, name) {
    loaded[name] ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `${FOLDER}${name}.js`;
      script.onload = () => resolve((kind === "worlds" ? ctmMath.mixture : ctmMath.network)(globalThis.ctmData[kind][name]));
      script.onerror = () => reject(new Error(`${name}.js is missing from this build`));
      document.head.append(script);
    });
    return loaded[name];
  }

  function element(parent, tag, attributes = {}, text = "") {
    const made = document.createElement(tag);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    made.textContent = text;
    parent.append(made);
    return made;
  }

  // A labelled slider; show(value) is what a reader sees and hears.
  function slider(parent, text, { min, max, step, value }, show, changed) {
    const label = element(parent, "label");
    const name = element(label, "span");
    name.innerHTML = text;
    const input = element(label, "input", { type: "range", min, max, step, value });
    const shown = element(label, "span", { class: "value", "aria-hidden": "true" });
    const made = {
      get value() { return Number(input.value); },
      set value(number) { input.value = number; made.tell(); },
      tell() { shown.textContent = show(made.value); input.setAttribute("aria-valuetext", show(made.value)); },
    };
    input.addEventListener("input", () => { made.tell(); changed(made); });
    made.tell();
    return made;
  }

  function select(parent, text, options, changed) {
    const label = element(parent, "label");
    element(label, "span", {}, text);
    const input = element(label, "select");
    const made = {
      input,
      get value() { return input.value; },
      fill(entries) { input.replaceChildren(); entries.forEach(([value, name]) => element(input, "option", { value }, name)); },
    };
    made.fill(options);
    input.addEventListener("change", () => changed(made.value));
    return made;
  }

  function legend(parent, entries) {
    const list = element(parent, "ul", { class: "legend" });
    return entries.map(([kind, text]) => element(list, "li", { class: kind }, text));
  }

  // A canvas cleared and scaled to the screen's pixels.
  function sheet(canvas) {
    const scale = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    const wide = Math.round(width * scale), high = Math.round(height * scale);
    if (canvas.width !== wide || canvas.height !== high) { canvas.width = wide; canvas.height = high; }
    const g = canvas.getContext("2d");
    g.setTransform(scale, 0, 0, scale, 0, 0);
    g.clearRect(0, 0, width, height);
    g.font = "12px sans-serif";
    return { g, width, height };
  }

  // Small squares at the points of a 2-D cloud; place gives pixels for one point.
  function dots(g, cloud, place, colour, size = 3) {
    g.fillStyle = colour;
    for (let i = 0; i < cloud.length; i += 2) {
      const [px, py] = place(cloud[i], cloud[i + 1]);
      g.fillRect(px - size / 2, py - size / 2, size, size);
    }
  }

  function line(g, points, colour, width, dash = []) {
    g.beginPath();
    g.strokeStyle = colour; g.lineWidth = width; g.setLineDash(dash);
    points.forEach(([px, py], i) => g[i ? "lineTo" : "moveTo"](px, py));
    g.stroke();
    g.setLineDash([]);
  }

  function disc(g, [px, py], colour, radius, hollow = false) {
    g.beginPath();
    g.arc(px, py, radius, 0, 2 * Math.PI);
    g.fillStyle = g.strokeStyle = colour; g.lineWidth = 2;
    if (hollow) g.stroke(); else g.fill();
  }

  // Points are shown at x sd / sqrt(sd^2 + t^2): the same spread at every noise level.
  const shrink = (world, t) => world.sigma_data / Math.hypot(world.sigma_data, t);

  const level = (t) => (t < 0.00995 ? t.toFixed(4) : t < 0.0995 ? t.toFixed(3) : t < 9.95 ? t.toFixed(2) : t.toFixed(1));

  // The frame of a figure in `root`: draw is called at most once a frame, after request(), a new size or a new theme; say
  // puts a sentence in the live line, not faster than a reader or a screen reader can follow.
  function stage(root, draw) {
    let frame = 0, timer = 0, words = "";
    const output = element(root, "output", { "aria-live": "polite" });
    const request = () => { frame ||= requestAnimationFrame(() => { frame = 0; draw(); }); };
    const say = (text) => {
      words = text;
      timer ||= setTimeout(() => { timer = 0; if (output.textContent !== words) output.textContent = words; }, 120);
    };
    new ResizeObserver(request).observe(root);
    new MutationObserver(request).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    return { request, say };
  }

  // Build every figure of a class, in place of the picture that stands in for it; if its data are missing, the picture stays.
  function start(name, build) {
    document.querySelectorAll(`.live.${name}`).forEach(async (root) => {
      const still = [...root.childNodes], box = document.createElement("div");
      try {
        root.append(box);
        await build(box);
        still.forEach((node) => node.remove());
      } catch (error) {
        box.remove();
        element(root, "p", {}, `This figure is not live here: ${error.message}.`);
      }
    });
  }

  return { NAMES, MODELS, colours, load, element, slider, select, legend, sheet, dots, line, disc, shrink, level, stage, start };
})();
