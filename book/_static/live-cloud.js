// A live figure of jumps between any two noise levels: 500 points at t, and where the network and the exact map put them at s.
"use strict";

ctmDraw.start("live-cloud", async (box) => {
  const m = ctmMath, d = ctmDraw, COUNT = 500;
  let world, model, paths;

  const top = d.element(box, "div", { class: "choices" });
  const worlds = d.select(top, "world", Object.keys(d.MODELS).map((name) => [name, d.NAMES[name]]), pick);
  const models = d.select(top, "network", d.MODELS[worlds.value], train);
  const panels = d.element(box, "div", { class: "panels" });
  const before = d.element(panels, "canvas", { role: "img", "aria-label": "500 points at the noise level t" });
  const after = d.element(panels, "canvas", { role: "img", "aria-label": "The same points at the noise level s, by the exact map and by the network" });
  const time = (value) => m.level(value / 200, world.sigma_min, world.sigma_max);
  const shown = (value) => (world ? d.level(time(value)) : "");
  const from = d.slider(box, "from <em>t</em>", { min: 0, max: 200, step: 1, value: 0 }, shown, () => {
    if (to.value < from.value) to.value = from.value; // time runs down: s is never above t
    request();
  });
  const to = d.slider(box, "to <em>s</em>", { min: 0, max: 200, step: 1, value: 200 }, shown, () => {
    if (from.value > to.value) from.value = to.value;
    request();
  });
  d.legend(box, [["noise", "points at t (all are drawn scaled to one spread)"], ["exact", "where the exact map puts them, at s"], ["student", "where the network puts them, and how far off"]]);
  const { request, say } = d.stage(box, draw);

  async function pick(name) {
    const found = await d.load("worlds", name);
    if (worlds.value !== name) return; // another world was picked meanwhile
    models.fill(d.MODELS[name]);
    const random = m.normals(2), x0 = m.sample(found, COUNT, random), noise = random.draw(x0.length);
    const solved = m.trajectories(found, x0.map((value, i) => value + found.sigma_max * noise[i]), found.sigma_max, found.sigma_min);
    await train(models.value, found, solved);
  }

  async function train(name, newWorld = world, newPaths = paths) {
    const found = await d.load("models", name);
    if (models.value !== name) return;
    [world, paths, model] = [newWorld, newPaths, found];
    from.tell();
    to.tell();
    request();
  }

  function draw() {
    if (!model) return;
    const colour = d.colours(), t = time(from.value), s = time(to.value), limit = 2.4 * world.sigma_data;
    const x = m.at(paths, t), truth = m.at(paths, s), guess = m.jump(model, x, t, s);
    const placing = ({ width, height }, level) => {
      const k = Math.min(width, height) / (2 * limit) * d.shrink(world, level);
      return (a, b) => [width / 2 + k * a, height / 2 - k * b];
    };
    const left = d.sheet(before), right = d.sheet(after), place = placing(right, s);
    d.dots(left.g, x, placing(left, t), colour.noise);
    d.dots(right.g, truth, place, colour.exact, 5);
    right.g.beginPath();
    right.g.strokeStyle = colour.student;
    const misses = new Float64Array(COUNT);
    for (let i = 0; i < COUNT; i++) {
      misses[i] = Math.hypot(guess[2 * i] - truth[2 * i], guess[2 * i + 1] - truth[2 * i + 1]);
      right.g.moveTo(...place(guess[2 * i], guess[2 * i + 1]));
      right.g.lineTo(...place(truth[2 * i], truth[2 * i + 1]));
    }
    right.g.lineWidth = 1;
    right.g.stroke();
    d.dots(right.g, guess, place, colour.student, 2.5);
    [[left, `t = ${d.level(t)}`], [right, `s = ${d.level(s)}`]].forEach(([{ g }, text]) => { g.fillStyle = colour.ink; g.fillText(text, 4, 14); });

    const size = Math.sqrt(world.dim) * world.sigma_data, order = misses.sort();
    say(`From t = ${d.level(t)} to s = ${d.level(s)}: root mean square error ${(m.rms(guess, truth, world.dim) / size).toFixed(3)} of the data’s `
      + `size; half of the points miss by less than ${(order[COUNT / 2] / size).toFixed(3)}, the worst by ${(order[COUNT - 1] / size).toFixed(2)}.`);
  }

  await pick(worlds.value);
});
