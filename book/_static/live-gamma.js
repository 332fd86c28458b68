// A live figure of gamma-sampling: 500 points in a few calls of a network, beside the data, with their distance.
"use strict";

ctmDraw.start("live-gamma", async (box) => {
  const m = ctmMath, d = ctmDraw, COUNT = 500, MOST = 8;
  let world, model, start, fresh, truth, prepared, floor, wide, seed = 0, drawn = "";

  const top = d.element(box, "div", { class: "choices" });
  const worlds = d.select(top, "world", Object.keys(d.MODELS).map((name) => [name, d.NAMES[name]]), pick);
  const models = d.select(top, "network", d.MODELS[worlds.value], train);
  const button = d.element(top, "button", { type: "button" }, "other noise");
  const panels = d.element(box, "div", { class: "panels" });
  const made = d.element(panels, "canvas", { role: "img", "aria-label": "500 samples of the network" });
  const real = d.element(panels, "canvas", { role: "img", "aria-label": "500 points of the data" });
  const calls = d.slider(box, "calls <em>n</em>", { min: 1, max: MOST, step: 1, value: 4 }, String, () => request());
  const gamma = d.slider(box, "<em>γ</em>", { min: 0, max: 1, step: 0.02, value: 0 }, (value) => value.toFixed(2), () => request());
  d.element(box, "p", { class: "caption" }, "distance to the data; 1 is what sets of true points have, the grey bar their range");
  const scale = d.element(box, "canvas", { class: "scale", role: "img", "aria-label": "Distance of the samples to the data in units of the noise floor" });
  d.legend(box, [["student", "samples of the network"], ["data", "data"]]);
  const { request, say } = d.stage(box, draw);

  async function pick(name) {
    const found = await d.load("worlds", name);
    if (worlds.value !== name) return; // another world was picked meanwhile
    models.fill(d.MODELS[name]);
    await train(models.value, found);
  }

  async function train(name, newWorld = world) {
    const found = await d.load("models", name);
    if (models.value !== name) return;
    const other = newWorld !== world;
    [world, model] = [newWorld, found];
    if (other) {
      const random = m.normals(3), sets = Array.from({ length: 10 }, () => m.sample(world, COUNT, random));
      const many = m.sample(world, 20 * COUNT, random);
      prepared = m.ruler(many, world.dim, COUNT);
      wide = m.width(world, many);
      floor = sets.map((x) => m.slicedW2(x, prepared)).sort((a, b) => a - b);
      truth = sets[0];
      renew();
    }
    request();
  }

  function renew() {
    const random = m.normals(100 + seed++);
    const noise = random.draw(world.dim * COUNT);
    start = m.sample(world, COUNT, random).map((value, i) => value + world.sigma_max * noise[i]);
    fresh = Array.from({ length: MOST }, () => random.draw(world.dim * COUNT)); // kept while the sliders move
    request();
  }

  function draw() {
    if (!model) return;
    const colour = d.colours(), n = calls.value, limit = 2.4 * world.sigma_data;
    const map = (x, t, s) => m.jump(model, x, t, s);
    const x = m.gammaSampling(map, start, m.times(n, world.sigma_min, world.sigma_max), gamma.value, fresh, world.sigma_min);
    const show = (canvas, cloud, ink, title) => {
      const { g, width, height } = d.sheet(canvas), k = Math.min(width, height) / (2 * limit);
      d.dots(g, cloud, (a, b) => [width / 2 + k * a, height / 2 - k * b], ink);
      g.fillStyle = colour.ink;
      g.fillText(title, 4, 14);
    };
    show(made, x, colour.student, "samples");
    const now = [worlds.value, colour.data, real.clientWidth, real.clientHeight, window.devicePixelRatio].join();
    if (now !== drawn) show(real, truth, colour.data, "data"); // the data stay while the sliders move
    drawn = now;
    const unit = floor.reduce((sum, value) => sum + value / floor.length, 0), distance = m.slicedW2(x, prepared), ratio = distance / unit;

    const { g, width } = d.sheet(scale), across = (value) => 8 + Math.log2(1 + Math.min(value, 15)) / 4 * (width - 16);
    g.fillStyle = colour.faint;
    g.fillRect(across(floor[0] / unit), 6, across(floor[9] / unit) - across(floor[0] / unit), 12);
    d.line(g, [[across(0), 12], [across(15), 12]], colour.data, 1);
    g.fillStyle = colour.ink;
    g.textAlign = "center";
    [0, 1, 2, 4, 8, 15].forEach((tick) => { d.line(g, [[across(tick), 9], [across(tick), 15]], colour.data, 1); g.fillText(tick, across(tick), 32); });
    d.disc(g, [across(ratio), 12], colour.student, 6);
    say(`${n} call${n > 1 ? "s" : ""}, γ = ${gamma.value.toFixed(2)}: sliced W₂ to the data ${distance.toFixed(3)}, `
      + `${ratio.toFixed(1)} times the noise floor of ${unit.toFixed(3)} (ten true sets: ${(floor[0] / unit).toFixed(1)} to ${(floor[9] / unit).toFixed(1)}). `
      + `Width of the modes: ${(m.width(world, x) / wide).toFixed(2)} of the true one.`);
  }

  button.addEventListener("click", () => { if (world) renew(); });
  await pick(worlds.value);
});
