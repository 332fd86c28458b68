// A live figure of solvers: Euler's and Heun's steps along one trajectory, and their errors against the number of calls.
"use strict";

ctmDraw.start("live-solvers", async (box) => {
  const m = ctmMath, d = ctmDraw, CALLS = [2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256], COUNT = 32, EDGE = 2.1;
  const world = await d.load("worlds", "two_gaussians"), { sigma_min: low, sigma_max: high, sigma_data: sd } = world;
  const spread = (t) => 1 / d.shrink(world, t), ends = (points) => points[points.length - 1];
  const many = Float64Array.from({ length: COUNT }, (_, i) => 1.9 * sd * spread(high) * ((2 * i + 1) / COUNT - 1)); // evenly over the noise
  const truth = ends(m.trajectories(world, many, high, low).points);
  const times = { ...d.scale(high, low, 1 / 7), ticks: [30, 10, 3, 1, 0.3, 0.1, 0.01], name: "noise level t" };
  const places = { ...d.scale(-EDGE * sd, EDGE * sd), ticks: [], name: "x, scaled to one spread" };
  const count = { ...d.scale(2, 256, 0), ticks: [2, 8, 32, 128], name: "calls of the denoiser" };
  const errors = { ...d.scale(1e-4, 30, 0), ticks: [0.001, 0.01, 0.1, 1, 10], name: "error at the end, of 32 starts" };
  let view, x = Float64Array.of(0.35 * high);

  const [canvas, chart] = d.panels(box,
    "A trajectory from noise to data, Euler’s steps and Heun’s steps. Drag its start up and down, or move it with the arrow keys.",
    "Errors of both solvers against the number of calls, on double logarithmic axes");
  const calls = d.slider(box, "calls", { min: 0, max: CALLS.length - 1, step: 1, value: 3 }, (i) => String(CALLS[i]), () => request());
  const rho = d.slider(box, "placement <em>ρ</em>", { min: 1, max: 20, step: 0.5, value: 7 }, (value) => value.toFixed(1), () => request());
  d.legend(box, [["exact", "the exact trajectory"], ["euler", "Euler’s steps, one call each"], ["euler", "Heun’s steps, two calls each", "dashed"],
    ["faint", "the noise levels of Euler’s steps"]]);
  const { request, say } = d.stage(box, draw);
  const walk = (solver, from, n) => {
    const levels = m.times(solver === m.euler ? n : n / 2, low, high, rho.value);
    return [levels, solver(world, from, levels)];
  };

  let known = NaN, errorsOf = []; // of both solvers at every number of calls: found anew where rho has changed
  const table = () => {
    if (known !== rho.value) {
      const error = (solver, k) => Math.max(m.rms(ends(walk(solver, many, k)[1]), truth, 1) / sd, 1e-4);
      errorsOf = [m.euler, m.heun].map((solver) => CALLS.map((k) => error(solver, k)));
      known = rho.value;
    }
    return errorsOf;
  };

  function draw() {
    const colour = d.colours(), n = CALLS[calls.value], path = m.trajectories(world, x, high, low), end = ends(path.points);
    view = d.axes(canvas, times, places, 14);
    const { g } = view, at = (t, p) => view.place(t, Math.min(Math.max(p[0] / spread(t), -EDGE * sd), EDGE * sd)); // steps may leave the picture
    const [levels, green] = walk(m.euler, x, n), [fewer, dashed] = walk(m.heun, x, n);
    levels.forEach((t) => d.line(g, [view.place(t, -EDGE * sd), view.place(t, EDGE * sd)], colour.faint, 1));
    d.line(g, path.points.map((p, j) => at(m.timeOf(path, j), p)), colour.exact, 2.5);
    [[levels, green, []], [fewer, dashed, [5, 4]]].forEach(([grid, points, dash]) => {
      d.line(g, d.straight(grid.map((t, i) => [t, points[i]])).map(([t, p]) => at(t, p)), colour.euler, 1.8, dash);
      grid.forEach((t, i) => { if (n <= 64) d.disc(g, at(t, points[i]), colour.euler, dash.length ? 4 : 2.5, dash.length > 0); });
    });
    d.disc(g, at(low, end), colour.exact, 5);
    d.disc(g, at(high, x), colour.ink, 8);

    const panel = d.axes(chart, count, errors);
    table().forEach((found, i) => {
      const dash = i ? [5, 4] : [];
      d.line(panel.g, CALLS.map((k, j) => panel.place(k, found[j])), colour.euler, 1.8, dash);
      d.disc(panel.g, panel.place(n, found[calls.value]), colour.euler, 5, dash.length > 0);
    });
    const miss = (points) => d.small(d.apart(ends(points), end) / sd);
    say(`${n} calls, ρ = ${rho.value.toFixed(1)}: ${n} Euler steps end ${miss(green)} of the data’s size from the end of this trajectory, `
      + `${n / 2} Heun step${n > 2 ? "s" : ""} ${miss(dashed)}.`);
  }

  d.drag(canvas, () => view.place(high, x[0] / spread(high)), (px, py) => {
    x = Float64Array.of(view.find(px, py)[1] * spread(high));
    request();
  });
});
