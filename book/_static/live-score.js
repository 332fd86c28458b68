// A live figure of the density p_t of a world in the plane and of its score, with one point and the guess that its score leads to.
"use strict";

ctmDraw.start("live-score", async (box) => {
  const m = ctmMath, d = ctmDraw, CELLS = 48, ARROWS = 13;
  const picture = document.createElement("canvas"); // the density, one pixel a cell, drawn larger and smooth
  picture.width = picture.height = CELLS;
  let world, limit, spot = [0.2, 0.45]; // the edge of the picture, and the point in units of it

  const [canvas, , panels] = d.panels(box,
    "The density at noise level t in grey, arrows along its score, and a point with its guess. Drag the point, or move it with the arrow keys.");
  const side = d.element(panels, "div", { class: "side" });
  const worlds = d.select(side, "world", ["ring", "two_moons", "pinwheel"].map((name) => [name, d.NAMES[name]]), pick);
  const time = (value) => m.level(value / 100, world.sigma_min, world.sigma_max);
  const noise = d.slider(side, "noise level <em>t</em>", { min: 0, max: 95, step: 1, value: 65 },
    (value) => (world ? d.level(time(value)) : ""), () => request());
  d.legend(side, [["noise", "density of the noised points, scaled to one spread"], ["exact", "arrows: the score; from the point: its guess D"],
    ["data", "centres of the components", "point full"]]);
  const { request, say } = d.stage(box, draw);

  async function pick(name) {
    const found = await d.load("worlds", name);
    if (worlds.value !== name) return; // another world was picked meanwhile
    world = found;
    limit = 2.3 * world.sigma_data;
    noise.tell();
    request();
  }

  // The places of a square grid, n by n, row by row from the top, in the units of the data.
  const grid = (n, k) => Float64Array.from({ length: 2 * n * n }, (_, i) => {
    const part = (2 * (i % 2 ? Math.floor(i / 2 / n) : i / 2 % n) + 1) / n - 1;
    return (i % 2 ? -part : part) * limit / k;
  });

  function draw() {
    if (!world) return;
    const colour = d.colours(), { g, width, height } = d.sheet(canvas), t = time(noise.value), k = d.shrink(world, t);
    const half = Math.min(width, height) / 2, place = (a, b) => [width / 2 + half * a * k / limit, height / 2 - half * b * k / limit];

    const logs = new Float64Array(CELLS * CELLS), paint = picture.getContext("2d"), pixels = paint.createImageData(CELLS, CELLS);
    m.score(world, grid(CELLS, k), t, undefined, logs);
    const top = logs.reduce((a, b) => Math.max(a, b)), tint = [1, 3, 5].map((i) => parseInt(colour.noise.slice(i, i + 2), 16));
    logs.forEach((log, i) => {
      for (let j = 0; j < 3; j++) pixels.data[4 * i + j] = tint[j];
      pixels.data[4 * i + 3] = 255 * Math.exp(log - top);
    });
    paint.putImageData(pixels, 0, 0);
    g.drawImage(picture, width / 2 - half, height / 2 - half, 2 * half, 2 * half);
    d.dots(g, world.mu, place, colour.data, 4);

    const feet = grid(ARROWS, k), slopes = m.score(world, feet, t), cell = 2 * half / ARROWS;
    for (let i = 0; i < feet.length; i += 2) {
      const size = t * Math.hypot(slopes[i], slopes[i + 1]), reach = 0.9 * cell / (1 + size) * t, from = place(feet[i], feet[i + 1]);
      if (size > 0.02) d.arrow(g, from, [from[0] + reach * slopes[i], from[1] - reach * slopes[i + 1]], colour.exact, 1, 3);
    }
    const x = Float64Array.from(spot, (part) => part * limit / k), slope = m.score(world, x, t), guess = m.denoiser(world, x, t);
    d.line(g, [place(...x), place(...guess)], colour.exact, 2.5);
    d.disc(g, place(...guess), colour.exact, 6);
    d.disc(g, place(...x), colour.ink, 8);
    say(`At t = ${d.level(t)} and x = ${d.spot(x)} the score is ${Math.hypot(...slope).toPrecision(3)} long. Times t² that is `
      + `${d.apart(x, guess).toPrecision(3)}, the way to the guess D = ${d.spot(guess)}. `
      + `One component claims ${Math.round(100 * Math.max(...m.claims(world, x, t)))}% of x.`);
  }

  await pick(worlds.value);
  const half = () => Math.min(canvas.clientWidth, canvas.clientHeight) / 2;
  d.drag(canvas, () => [canvas.clientWidth / 2 + half() * spot[0], canvas.clientHeight / 2 - half() * spot[1]], (px, py) => {
    spot = [(px - canvas.clientWidth / 2) / half(), (canvas.clientHeight / 2 - py) / half()].map((part) => Math.min(Math.max(part, -1), 1));
    request();
  });
});
