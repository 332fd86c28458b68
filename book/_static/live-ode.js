// A live figure of the probability-flow ODE of two Gaussians: a point (t, x), its tangent and its end, and the density at t.
"use strict";

ctmDraw.start("live-ode", async (box) => {
  const m = ctmMath, d = ctmDraw, HIGH = 6, EDGE = 7;
  const world = await d.load("worlds", "two_gaussians");
  const fan = m.trajectories(world, Float64Array.of(-6.5, -4, -2, -0.7, 0.7, 2, 4, 6.5), HIGH, 0, 60);
  const line = Float64Array.from({ length: 241 }, (_, i) => EDGE * (i / 120 - 1));
  const across = { ...d.scale(HIGH, 0, 0.5), ticks: [6, 4, 2, 1, 0.5, 0], name: "noise level t" };
  const places = { ...d.scale(-EDGE, EDGE), ticks: [-5, 0, 5], name: "x" };
  let view;

  const [space, slice] = d.panels(box,
    "A trajectory through the chosen point, its tangent and its end. Drag the point, or move it with the arrow keys.",
    "Density at the chosen noise level, split by component");
  const time = d.slider(box, "noise level <em>t</em>", { min: 0.05, max: HIGH, step: 0.01, value: 2.5 }, (t) => t.toFixed(2), () => request());
  const point = d.slider(box, "place <em>x</em>", { min: -6, max: 6, step: 0.01, value: 0.6 }, (x) => x.toFixed(2), () => request());
  d.legend(box, [["exact", "trajectory; density"], ["euler", "tangent, to the guess D", "dashed"],
    ["noise", "other trajectories; the two parts of the density"]]);
  const { request, say } = d.stage(box, draw);

  function draw() {
    const colour = d.colours(), t = time.value, x = Float64Array.of(point.value), [guess] = m.denoiser(world, x, t);
    const path = m.trajectories(world, x, t, 0, 60), [end] = path.points[60], claims = m.claims(world, x, t);
    view = d.axes(space, across, places);
    const way = (p, i = 0) => p.points.map((now, j) => view.place(Math.max(m.timeOf(p, j), 0), now[i]));
    fan.points[0].forEach((_, i) => d.line(view.g, way(fan, i), colour.noise, 0.7));
    d.line(view.g, way(path), colour.exact, 2.2);
    d.line(view.g, d.straight([[t, [x[0]]], [0, [guess]]]).map(([u, [y]]) => view.place(u, y)), colour.euler, 1.6, [5, 4]);
    d.disc(view.g, view.place(t, x[0]), colour.ink, 6);
    d.disc(view.g, view.place(0, guess), colour.euler, 6, true);
    d.disc(view.g, view.place(0, end), colour.exact, 5);

    const density = new Float64Array(line.length + 1), parts = Array.from(line, (y) => m.claims(world, [y], t));
    m.score(world, Float64Array.of(...line, x[0]), t, undefined, density);
    const heights = density.map(Math.exp), top = Math.max(...heights);
    const { g, place } = d.axes(slice, { ...places, name: "x" }, { ...d.scale(0, 1.1 * top), ticks: [], name: "density at t" });
    const curve = (height) => Array.from(line, (y, i) => place(y, height(i)));
    [0, 1].forEach((k) => d.line(g, curve((i) => heights[i] * parts[i][k]), colour.noise, 1.2));
    d.line(g, curve((i) => heights[i]), colour.exact, 2.2);
    d.line(g, [place(x[0], 0), place(x[0], heights[line.length])], colour.ink, 1.6);
    say(`t = ${t.toFixed(2)}, x = ${d.spot(x)}: the upper mode claims ${Math.round(100 * claims[1])}%, the guess is D = ${d.spot([guess])}, `
      + `the trajectory ends at ${d.spot([end])}.`);
  }

  d.drag(space, () => view.place(time.value, point.value), (px, py) => {
    [time.value, point.value] = view.find(px, py);
    request();
  });
});
