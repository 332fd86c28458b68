// A live figure of the denoiser as a weighted mean: data points of the ring, their weights for one noised point, and the mean.
"use strict";

ctmDraw.start("live-denoiser", async (box) => {
  const m = ctmMath, d = ctmDraw, EDGE = 1.3, LOW = 0.02, HIGH = 3;
  const world = await d.load("worlds", "ring");
  let x = Float64Array.of(0.3, 0.05), points;

  const [canvas, , panels] = d.panels(box,
    "Data points, larger the more they weigh in the denoiser’s answer for the noised point, and that answer. "
    + "Drag the noised point, or move it with the arrow keys.");
  const side = d.element(panels, "div", { class: "side" });
  const sizes = d.select(side, "data points", [24, 8, 256, 1024].map((n) => [n, n]), pick);
  const time = (value) => m.level(value / 100, LOW, HIGH);
  const noise = d.slider(side, "noise level <em>t</em>", { min: 0, max: 100, step: 1, value: 60 }, (value) => d.level(time(value)), () => request());
  const button = d.element(side, "button", { type: "button" }, "other data points");
  d.legend(side, [["ink", "the noised point x", "point full"], ["noise", "circle of radius t about it", "dashed"],
    ["data", "data points, larger with more weight", "point full"], ["exact", "their weighted mean: the denoiser of these points", "point full"],
    ["exact", "the denoiser of endless data", "point"]]);
  const { request, say } = d.stage(box, draw);
  let seed = 1;

  // The n data points are a world: components without width, equally likely.
  function pick(n) {
    const drawn = m.sample(world, Number(n), m.normals(seed));
    points = m.mixture({ ...world, means: Array.from({ length: n }, (_, i) => [drawn[2 * i], drawn[2 * i + 1]]), stds: Array(Number(n)).fill(0),
      weights: Array(Number(n)).fill(1 / n) });
    request();
  }

  const place = (a, b) => {
    const { clientWidth: wide, clientHeight: high } = canvas, k = Math.min(wide, high) / (2 * EDGE);
    return [wide / 2 + k * a, high / 2 - k * b];
  };

  function draw() {
    const colour = d.colours(), { g } = d.sheet(canvas), t = time(noise.value), here = place(...x);
    const weights = m.claims(points, x, t), mean = m.denoiser(points, x, t), exact = m.denoiser(world, x, t);
    g.setLineDash([5, 4]);
    d.disc(g, here, colour.noise, t * (place(1, 0)[0] - place(0, 0)[0]), true);
    g.setLineDash([]);
    weights.forEach((weight, k) => {
      const spot = place(points.mu[2 * k], points.mu[2 * k + 1]);
      if (weight > 0.02) d.line(g, [here, spot], colour.faint, 1 + 5 * weight);
      d.disc(g, spot, colour.data, 1.5 + 9 * Math.sqrt(weight));
    });
    d.line(g, [here, place(...mean)], colour.exact, 2);
    d.disc(g, here, colour.ink, 7);
    d.disc(g, place(...mean), colour.exact, 6);
    d.disc(g, place(...exact), colour.exact, 9, true);
    const heaviest = Math.max(...weights), share = 1 / weights.reduce((sum, weight) => sum + weight * weight, 0);
    say(`t = ${d.level(t)}, x = ${d.spot(x)}: the heaviest of ${points.k} points has `
      + `${(100 * heaviest).toFixed(heaviest > 0.0995 ? 0 : 1)}% of the weight, as if ${share.toFixed(1)} shared it equally. `
      + `Their mean is D = ${d.spot(mean)}, ${d.small(d.apart(mean, exact))} from the denoiser of endless data.`);
  }

  d.drag(canvas, () => place(...x), (px, py) => {
    const [middle, centre] = place(0, 0), k = place(1, 0)[0] - middle;
    x = Float64Array.of((px - middle) / k, (centre - py) / k).map((value) => Math.min(Math.max(value, -EDGE), EDGE));
    request();
  });
  button.addEventListener("click", () => { seed++; pick(sizes.value); });
  pick(sizes.value);
});
