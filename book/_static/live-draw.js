// What the live figures share: colours that follow the theme, canvases, controls, and one redraw a frame while something
// changes. Nothing moves by itself, so there is no motion to reduce. Plain script, no module: it must run from file://.
"use strict";

const ctmDraw = (() => {
  const FOLDER = document.currentScript.src.replace(/[^/]*$/, "live/");
  // The palette of the style sheet, read once for each theme.
  const KINDS = ["data", "noise", "exact", "euler", "teacher", "student", "ink", "faint"], palettes = {};
  const colours = () => palettes[document.documentElement.dataset.theme] ??= Object.fromEntries(KINDS.map((kind) =>
    [kind, getComputedStyle(document.documentElement).getPropertyValue(`--ctm-${kind}`).trim()]));

  const NAMES = { two_gaussians: "two modes on a line", ring: "ring", two_moons: "two moons", pinwheel: "pinwheel" };
  // The stored models of each world in the plane, by file and by what the reader is told. The first is drawn at once.
  const MODELS = {
    ring: [["ring_small", "small, trained to the end"], ["ring_small_quick", "small, 400 steps"], ["ring_exact", "ten times larger"],
      ["ring_scratch", "larger, without a teacher"], ["ring_cm", "larger, consistency model"]],
    two_moons: [["two_moons_small", "small, trained to the end"]],
    pinwheel: [["pinwheel_small", "small, trained to the end"]],
  };
  const loaded = {};

  // A world, a stored model or a map of its errors by its name, from the script that the build wrote for it.
  function load(kind, name) {
    loaded[name] ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `${FOLDER}${name}.js`;
      const made = { worlds: ctmMath.mixture, models: ctmMath.network, errors: (map) => map }[kind];
      script.onload = () => resolve(made(globalThis.ctmData[kind][name]));
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
    return entries.map(([kind, text, look = ""]) => element(list, "li", { class: look, style: `--ink: var(--ctm-${kind})` }, text));
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

  function arrow(g, from, to, colour, width, head = 4) {
    const angle = Math.atan2(to[1] - from[1], to[0] - from[0]);
    const back = (turn) => [to[0] - head * Math.cos(angle + turn), to[1] - head * Math.sin(angle + turn)];
    line(g, [from, to], colour, width);
    line(g, [back(0.5), to, back(-0.5)], colour, width);
  }

  // A way from one point (t, x) to the next, straight in t and so bent on an axis that is not.
  const straight = (points) => points.slice(1).flatMap(([u, y], i) => Array.from({ length: 9 }, (_, j) =>
    [points[i][0] + j / 8 * (u - points[i][0]), points[i][1].map((value, k) => value + j / 8 * (y[k] - value))]));

  // An axis from one value to another, even in value^power, in log value if power is 0.
  function scale(from, to, power = 1) {
    const bend = power ? (value) => value ** power : Math.log, back = power ? (part) => part ** (1 / power) : Math.exp;
    const a = bend(from), b = bend(to);
    return { share: (value) => (bend(value) - a) / (b - a), value: (part) => back(a + Math.min(Math.max(part, 0), 1) * (b - a)) };
  }

  // A canvas with two axes: place gives the pixels of two values, and find the values at pixels.
  function axes(canvas, across, up, left = 36, bottom = 36, top = 20) {
    const { g, width, height } = sheet(canvas), wide = width - left - 10, high = height - bottom - top;
    const place = (a, b) => [left + across.share(a) * wide, top + (1 - up.share(b)) * high];
    const find = (px, py) => [across.value((px - left) / wide), up.value(1 - (py - top) / high)];
    g.fillStyle = colours().ink;
    g.textAlign = "center";
    across.ticks.forEach((tick) => g.fillText(tick, left + across.share(tick) * wide, height - bottom + 16));
    g.fillText(across.name, left + wide / 2, height - 4);
    g.textAlign = "right";
    up.ticks.forEach((tick) => g.fillText(tick, left - 5, top + (1 - up.share(tick)) * high + 4));
    g.textAlign = "left";
    g.fillText(up.name, 0, 12);
    return { g, place, find };
  }

  // A point of a canvas under the hand: move is told the pixels where a pointer is, or where an arrow key leads to from where().
  function drag(canvas, where, move) {
    const follow = (event) => {
      if (event.type === "pointerdown") canvas.setPointerCapture(event.pointerId);
      else if (!event.buttons) return;
      const bounds = canvas.getBoundingClientRect();
      move(event.clientX - bounds.left, event.clientY - bounds.top);
    };
    canvas.addEventListener("pointerdown", follow);
    canvas.addEventListener("pointermove", follow);
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      const size = (event.shiftKey ? 0.05 : 0.01) * Math.min(canvas.clientWidth, canvas.clientHeight), [px, py] = where();
      move(px + size * step[0], py + size * step[1]);
    });
  }

  // The two panels of most figures: one to move a point in by hand, and one to look at.
  function panels(parent, hand, look) {
    const box = element(parent, "div", { class: "panels" });
    const first = element(box, "canvas", { class: "hand", role: "application", tabindex: "0", "aria-label": hand });
    return [first, look && element(box, "canvas", { class: "plot", role: "img", "aria-label": look }), box];
  }

  const spot = (p) => (p.length === 1 ? p[0].toFixed(2) : `(${p[0].toFixed(2)}, ${p[1].toFixed(2)})`).replaceAll("-", "−");
  const apart = (a, b) => Math.hypot(...a.map((value, i) => value - b[i]));
  const small = (gap) => (gap < 0.001 ? "less than 0.001" : gap.toFixed(3));

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

  return { NAMES, MODELS, colours, load, element, slider, select, legend, sheet, dots, line, disc, arrow, straight, scale, axes, drag, panels,
    spot, apart, small, shrink, level, stage, start };
})();
