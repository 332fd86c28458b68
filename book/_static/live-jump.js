// The live figure of the welcome page: one noise point under the hand, and four ways down from it.
"use strict";

ctmDraw.start("live-jump", async (box) => {
  const m = ctmMath, d = ctmDraw;
  const MODELS = { two_gaussians: "pair_small", ring: "ring_small", two_moons: "two_moons_small", pinwheel: "pinwheel_small" };
  const LEFT = 14, RIGHT = 14, BOTTOM = 36; // margins of the 1-D picture
  let world, model, x, limit, path, backdrop, touched = false; // x: the noise point; limit: the edge of the picture, scaled

  const panels = d.element(box, "div", { class: "panels" });
  const canvas = d.element(panels, "canvas", { class: "hand", role: "application", tabindex: "0" });
  const side = d.element(panels, "div", { class: "side" });
  const worlds = d.select(side, "world", Object.keys(MODELS).map((name) => [name, d.NAMES[name]]), pick);
  const time = (value) => m.level(value / 100, world.sigma_min, world.sigma_max);
  const steps = d.slider(side, "Euler steps <em>n</em>", { min: 1, max: 20, step: 1, value: 4 }, String, () => request());
  const end = d.slider(side, "jump to <em>s</em>", { min: 0, max: 100, step: 1, value: 58 },
    (value) => (world ? d.level(time(value)) : ""), () => request());
  const button = d.element(side, "button", { type: "button" }, "another noise point");
  const legend = d.legend(side, [["exact", "the exact trajectory"], ["euler", "Euler steps with the exact denoiser"],
    ["student", "consistency jump: to the end", "dashed"], ["student", "CTM’s jump: to any s"], ["noise", ""], ["data", "the data"]]);
  const { request, say } = d.stage(box, draw);

  async function pick(name) {
    const found = await Promise.all([d.load("worlds", name), d.load("models", MODELS[name])]);
    if (worlds.value !== name) return; // another world was picked meanwhile
    [world, model] = found;
    const plane = world.dim === 2, random = m.normals(1), high = world.sigma_max;
    limit = 2 * world.sigma_data;
    const many = plane ? m.sample(world, 500, random) : new Float64Array(17);
    const noise = random.draw(many.length);
    for (let i = 0; i < many.length; i++) many[i] = plane ? many[i] + high * noise[i] : (i / 8 - 1) * 1.8 * high;
    backdrop = m.trajectories(world, many, high, world.sigma_min); // 500 points in the plane, or a fan on the line
    x = Float64Array.from(plane ? [0.12 * high, 0.05 * high] : [0.28 * high]); // where the ways down are long
    canvas.setAttribute("aria-label", "A noise point and the ways down from it to the data: the exact trajectory, Euler steps, and two jumps. "
      + (plane ? "Drag the point, or move it with the arrow keys." : "Drag the point up and down, or move it with the arrow keys."));
    legend[4].textContent = plane ? "500 other points, at level s" : "other trajectories";
    legend[5].hidden = !plane;
    end.tell();
    request();
  }

  // Pixels of the point p[i] at noise level t, for a picture of this size.
  function placing(width, height) {
    if (world.dim === 2) {
      const unit = Math.min(width, height) / (2 * limit);
      return (t, p, i = 0) => { const k = unit * d.shrink(world, t); return [width / 2 + k * p[2 * i], height / 2 - k * p[2 * i + 1]]; };
    }
    return (t, p, i = 0) => [LEFT + m.fractionOf(t, world.sigma_min, world.sigma_max) * (width - LEFT - RIGHT),
      (height - BOTTOM) / 2 * (1 - p[i] * d.shrink(world, t) / limit)];
  }

  function draw() {
    if (!world) return;
    const colour = d.colours(), { g, width, height } = d.sheet(canvas), place = placing(width, height);
    const high = world.sigma_max, low = world.sigma_min, s = time(end.value), n = steps.value;
    path = m.trajectories(world, x, high, low);
    const levels = m.times(n, low, high), stairs = m.euler(world, x, levels);
    const consistency = m.jump(model, x, high, low), jumped = m.jump(model, x, high, s), there = m.at(path, s), last = m.at(path, low);

    if (world.dim === 2) {
      d.dots(g, m.at(backdrop, s), (a, b) => place(s, [a, b]), colour.noise, 2);
      d.dots(g, m.at(backdrop, low), (a, b) => place(low, [a, b]), colour.data, 2);
    } else {
      for (let i = 0; i < 17; i++) d.line(g, backdrop.points.map((p, j) => place(m.timeOf(backdrop, j), p, i)), colour.noise, 0.6);
      g.fillStyle = colour.ink;
      g.textAlign = "center";
      [30, 10, 3, 1, 0.3, 0.1, 0.01].forEach((t) => g.fillText(t, place(t, x)[0], height - BOTTOM + 16));
      g.fillText("noise level t", width / 2, height - 3);
      g.textAlign = "left";
      g.fillText("noise", 0, height - 3);
      g.textAlign = "right";
      g.fillText("data", width, height - 3);
      const across = place(s, x)[0];
      d.line(g, [[across, 0], [across, height - BOTTOM]], colour.data, 1, [2, 4]);
      g.fillText("s", across - 5, 14);
    }
    d.line(g, path.points.map((p, j) => place(m.timeOf(path, j), p)), colour.exact, 2.5);
    const stairway = d.straight(levels.map((t, i) => [t, stairs[i]])).map(([t, p]) => place(t, p));
    d.line(g, stairway, colour.euler, 1.6);
    stairs.slice(1).forEach((p, i) => d.disc(g, place(levels[i + 1], p), colour.euler, 3));
    const start = place(high, x);
    d.line(g, [start, place(low, consistency)], colour.student, 1.6, [6, 4]);
    d.line(g, [start, place(s, jumped)], colour.student, 1.8);
    d.disc(g, place(low, last), colour.exact, 5);
    d.disc(g, place(s, there), colour.exact, 5);
    d.disc(g, place(low, consistency), colour.student, 7, true);
    d.disc(g, place(s, jumped), colour.student, 7, true);
    d.disc(g, start, colour.ink, 9);
    if (!touched) {
      g.font = "bold 14px sans-serif";
      g.textAlign = world.dim === 2 ? "center" : "left";
      g.fillText(world.dim === 2 ? "drag me" : "↕ drag me", start[0] - (world.dim === 2 ? 0 : 8), start[1] + (world.dim === 2 ? 26 : -14));
    }

    const { spot, apart, small } = d;
    say(`From ${spot(x)} at noise level ${d.level(high)} the trajectory ends at ${spot(last)}. ${n} Euler step${n > 1 ? "s" : ""} `
      + `end${n > 1 ? "" : "s"} ${small(apart(stairs[n], last))} from there, the consistency jump ${small(apart(consistency, last))}. `
      + `CTM’s jump to s = ${d.level(s)} lands ${small(apart(jumped, there))} from the trajectory.`);
  }

  // The noise point in pixels, and moved to a place in the picture, given in units of its edge.
  const size = () => { // half of the picture, and its middle
    const plane = world.dim === 2, width = canvas.clientWidth, high = canvas.clientHeight - (plane ? 0 : BOTTOM);
    return [0.95 * (plane ? Math.min(width, high) : high) / 2, width / 2, high / 2];
  };
  const reach = () => 0.95 * limit / d.shrink(world, world.sigma_max);
  function move(across, up) {
    touched = true;
    const wide = world.dim === 2 ? [across, up] : [up];
    x = Float64Array.from(wide, (value) => reach() * Math.min(Math.max(value, -1), 1));
    request();
  }
  await pick(worlds.value);
  d.drag(canvas, () => {
    const [half, middle, centre] = size(), k = half / reach();
    return world.dim === 2 ? [middle + k * x[0], centre - k * x[1]] : [middle, centre - k * x[0]];
  }, (px, py) => {
    const [half, middle, centre] = size();
    move((px - middle) / half, (centre - py) / half);
  });
  const luck = m.normals(7);
  button.addEventListener("click", () => {
    const drawn = luck.draw(2);
    move(drawn[0] / 2, drawn[1] / 2); // normal, as noise is
  });
});
