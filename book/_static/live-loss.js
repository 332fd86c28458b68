// A live figure of the consistency loss: three times on one trajectory, the solver's way, and the two ends that are compared.
"use strict";

ctmDraw.start("live-loss", async (box) => {
  const m = ctmMath, d = ctmDraw, N = 12, EDGE = 2.1;
  const [world, trained] = await Promise.all([d.load("worlds", "two_gaussians"), d.load("models", "pair_small")]);
  const { sigma_min: low, sigma_max: high, sigma_data: sd } = world;
  const levels = m.times(N, low, high), students = { untrained: m.silenced(trained), trained };
  const times = { ...d.scale(high, low, 1 / 7), ticks: [30, 10, 3, 1, 0.3, 0.1, 0.01], name: "noise level" };
  const places = { ...d.scale(-EDGE * sd, EDGE * sd), ticks: [], name: "x, scaled to one spread" };
  let view, start = Float64Array.of(0.35 * high);

  const [canvas, , panels] = d.panels(box,
    "A trajectory with three points at t, u and s, the solver’s way from t to u, the student’s jump from t to s, and its jump from u to s. "
    + "Drag the start up and down, or move it with the arrow keys.");
  const side = d.element(panels, "div", { class: "side" });
  const student = d.select(side, "student", [["untrained", "untrained: its network answers 0"], ["trained", "small, trained to the end"]],
    () => request());
  const solver = d.select(side, "solver", [["heun", "Heun’s steps"], ["euler", "Euler’s steps"]], () => request());
  const order = (moved) => { // time runs down: t > u >= s
    if (to.value <= from.value) { if (moved === from) to.value = from.value + 1; else from.value = to.value - 1; }
    by.value = Math.min(Math.max(by.value, from.value + 1), to.value);
    request();
  };
  const kind = (u, t, s) => [u === t + 1 && "local", u === s && "global"].filter(Boolean).join(" and ") || "soft";
  const shown = (i) => d.level(levels[i]);
  const from = d.slider(side, "from <em>t</em>", { min: 0, max: N - 1, step: 1, value: 3 }, shown, order);
  const by = d.slider(side, "solver to <em>u</em>", { min: 1, max: N, step: 1, value: 4 }, shown, order);
  const to = d.slider(side, "jump to <em>s</em>", { min: 1, max: N, step: 1, value: 10 }, shown, order);
  d.legend(side, [["exact", "the exact trajectory"], ["teacher", "the teacher’s solver, from t to u"],
    ["student", "the student’s jump from t, to the estimate", "dashed"],
    ["student", "its jump from u, weights held still, to the target"]]);
  const { request, say } = d.stage(box, draw);

  function draw() {
    const colour = d.colours(), [i, k, j] = [from.value, by.value, to.value], [t, u, s] = [i, k, j].map((at) => levels[at]);
    const model = students[student.value];
    const path = m.trajectories(world, start, high, low), x = m.at(path, t), truth = m.at(path, s);
    const walked = m[solver.value](world, x, levels.slice(i, k + 1)), xu = walked[walked.length - 1];
    const estimate = m.jump(model, x, t, s), target = m.jump(model, xu, u, s);
    view = d.axes(canvas, times, places, 14);
    const { g } = view, at = (level, p) => view.place(level, Math.min(Math.max(p[0] * d.shrink(world, level), -EDGE * sd), EDGE * sd));
    levels.forEach((level) => d.line(g, [view.place(level, -EDGE * sd), view.place(level, EDGE * sd)], colour.faint, 1));
    d.line(g, path.points.map((p, q) => at(m.timeOf(path, q), p)), colour.exact, 1.6);
    d.line(g, d.straight(walked.map((p, q) => [levels[i + q], p])).map(([level, p]) => at(level, p)), colour.teacher, 5);
    d.line(g, [at(t, x), at(s, estimate)], colour.student, 1.8, [6, 4]);
    if (k < j) d.line(g, [at(u, xu), at(s, target)], colour.student, 1.8);
    d.disc(g, at(s, truth), colour.exact, 5);
    d.disc(g, at(s, target), colour.student, 4);
    d.disc(g, at(s, estimate), colour.student, 7, true);
    [["t", t, x], ["u", u, xu], ["s", s, truth]].forEach(([name, level, p]) => {
      const [px, py] = at(level, p);
      if (name !== "s") d.disc(g, [px, py], colour.ink, 4);
      g.fillStyle = colour.ink;
      if (name !== "u" || k < j) g.fillText(name, px - 3, py - 11);
    });
    d.disc(g, at(high, start), colour.ink, 8);
    const gap = d.apart(estimate, target), loss = m.pairLoss(sd, t, s, estimate, target);
    say(`u = ${d.level(u)}: ${kind(k, i, j)} consistency. Estimate ${d.spot(estimate)} and target ${d.spot(target)} are ${d.small(gap)} apart, `
      + `a loss of ${loss < 1e-4 ? "less than 0.0001" : loss.toPrecision(2)} for this pair. The exact point is ${d.spot(truth)}: `
      + `the estimate misses it by ${d.small(d.apart(estimate, truth))}.`);
  }

  d.drag(canvas, () => view.place(high, start[0] * d.shrink(world, high)), (px, py) => {
    start = Float64Array.of(view.find(px, py)[1] / d.shrink(world, high));
    request();
  });
});
