// A live figure of all jumps: the triangle of times (t, s) with a stored network's errors, one jump of it, and the same in two.
"use strict";

ctmDraw.start("live-triangle", async (box) => {
  const m = ctmMath, d = ctmDraw, STEPS = 100, PALE = 0.005, DEEP = 0.5; // errors that are drawn clear and full
  const MODELS = [["ring_small", "CTM, small"], ["ring_small_quick", "CTM, small, 400 steps"], ["ring_cm", "consistency model"]];
  const world = await d.load("worlds", "ring"), { sigma_min: low, sigma_max: high, dim } = world, size = world.sigma_data * Math.sqrt(dim);
  const time = (value) => m.level(value / STEPS, low, high), shown = (value) => d.level(time(value));
  const axis = (from, to, name) => ({ ...d.scale(from, to, 1 / 7), ticks: [10, 1, 0.1, 0.01], name });
  const times = axis(high, low, "from t"), ends = axis(low, high, "to s"), limit = 1.9 * world.sigma_data;
  let model, errors, view, path;

  const [map, picture] = d.panels(box,
    "The triangle of all jumps from t to s, darker where the network errs more. Drag the mark, or move it with the arrow keys.",
    "A point at t, and where the exact map and the network put it at s, in one jump and in two");
  const networks = d.select(box, "network", MODELS, pick);
  const from = d.slider(box, "from <em>t</em>", { min: 0, max: STEPS, step: 1, value: 10 }, shown,
    () => choose(from.value, Math.max(to.value, from.value)));
  const to = d.slider(box, "to <em>s</em>", { min: 0, max: STEPS, step: 1, value: 85 }, shown,
    () => choose(Math.min(from.value, to.value), to.value));
  const between = (part) => time(from.value + part / 100 * (to.value - from.value));
  const by = d.slider(box, "by way of <em>u</em>", { min: 0, max: 100, step: 1, value: 50 }, (part) => d.level(between(part)), () => request());
  const button = d.element(box, "button", { type: "button" }, "another point");
  d.legend(box, [["exact", "the exact trajectory"], ["student", "the network, in one jump"],
    ["student", "in two, by way of u", "dashed"], ["data", "the modes of the data"]]);
  const { request, say } = d.stage(box, draw);

  function choose(t, s) { // time runs down: s is never above t
    [from.value, to.value] = [t, s];
    by.tell();
    request();
  }

  async function pick(name) {
    const found = await Promise.all([d.load("models", name), d.load("errors", `${name}_errors`)]);
    if (networks.value !== name) return; // another network was picked meanwhile
    [model, errors] = found;
    request();
  }

  function start(x) {
    path = m.trajectories(world, Float64Array.from(x, (part) => high * part), high, low);
    request();
  }

  function draw() {
    view = d.axes(map, times, ends);
    if (!model) return;
    const colour = d.colours(), [t, u, s] = [time(from.value), between(by.value), time(to.value)], n = errors.length - 1;
    const { g, place } = view, [left, top] = place(high, high), [right, bottom] = place(low, low), cell = [(right - left) / n, (bottom - top) / n];
    g.fillStyle = colour.student;
    errors.forEach((row, i) => row.forEach((error, j) => {
      g.globalAlpha = Math.min(Math.max(Math.log(error / PALE) / Math.log(DEEP / PALE), 0), 1);
      const edge = (start, size, k) => Math.round(start + (k - 0.5) * size), x = edge(left, cell[0], i), y = edge(top, cell[1], j);
      if (j > i) g.fillRect(x, y, edge(left, cell[0], i + 1) - x, edge(top, cell[1], j + 1) - y);
    }));
    g.globalAlpha = 1;
    d.line(g, [[left, top], [left, bottom], [right, bottom], [left, top]], colour.data, 1);
    d.line(g, [place(t, u), place(t, s), place(u, s)], colour.ink, 1.4, [3, 3]);
    d.disc(g, place(t, u), colour.ink, 4, true);
    d.disc(g, place(u, s), colour.ink, 4, true);
    d.disc(g, place(t, s), colour.ink, 7);
    g.textAlign = "right";
    g.fillText("error: pale 0.005, full 0.5", right, top + 4);

    const x = m.at(path, t), truth = m.at(path, s), jump = m.jump(model, x, t, s), way = m.jump(model, x, t, u), second = m.jump(model, way, u, s);
    const { g: h, width, height } = d.sheet(picture), k = Math.min(width, height) / 2 / limit;
    const at = (level, p) => { const z = k * d.shrink(world, level); return [width / 2 + z * p[0], height / 2 - z * p[1]]; };
    d.dots(h, world.mu, (a, b) => at(low, [a, b]), colour.data, 7);
    d.line(h, path.points.flatMap((p, j) => { const v = m.timeOf(path, j); return v <= t && v >= s ? [at(v, p)] : []; }), colour.exact, 2.5);
    d.line(h, [at(t, x), at(s, jump)], colour.student, 1.8);
    d.line(h, [at(t, x), at(u, way), at(s, second)], colour.student, 1.6, [6, 4]);
    d.disc(h, at(s, truth), colour.exact, 5);
    d.disc(h, at(u, way), colour.student, 4);
    d.disc(h, at(s, second), colour.student, 4);
    d.disc(h, at(s, jump), colour.student, 7, true);
    d.disc(h, at(t, x), colour.ink, 7);

    const near = (value) => Math.round(value / STEPS * n), error = errors[near(from.value)][near(to.value)];
    const gap = (a, b) => d.small(d.apart(a, b) / size);
    say(`From t = ${d.level(t)} to s = ${d.level(s)} the jump lands ${gap(jump, truth)} of the data’s size from the exact point; `
      + `the map says ${error ? d.small(error) : "0.000"} for many points. By way of u = ${d.level(u)} it lands ${gap(second, truth)} from it, `
      + `and ${gap(second, jump)} from the one jump.`);
  }

  d.drag(map, () => view.place(time(from.value), time(to.value)), (px, py) => {
    const [t, s] = view.find(px, py).map((level) => STEPS * m.fractionOf(level, low, high));
    choose(t, Math.max(t, s));
  });
  const luck = m.normals(7);
  button.addEventListener("click", () => start(luck.draw(2).map((part) => 0.7 * part))); // most of them in the picture
  start([0.065, 0.1]);
  await pick(networks.value);
});
