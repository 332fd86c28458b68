// The live figure of the chapter on the probability-flow ODE: two Gaussians in one dimension, everything in closed form
// but the trajectory, which is a Runge-Kutta integration. Plain script, no module: it must run from file://.
"use strict";

const ctmLiveOde = (() => {
  const MEANS = [-1.5, 1.5], STD = 0.3, T_MAX = 6, X_MAX = 7;

  // Share of the point x that each Gaussian claims, and the log density, at noise level t.
  function posterior(x, t) {
    const v = STD * STD + t * t;
    const logs = MEANS.map((m) => Math.log(0.5) - 0.5 * Math.log(2 * Math.PI * v) - (x - m) ** 2 / (2 * v));
    const top = Math.max(...logs), terms = logs.map((l) => Math.exp(l - top));
    const sum = terms[0] + terms[1];
    return { claims: terms.map((e) => e / sum), density: sum * Math.exp(top), v };
  }
  function score(x, t) {
    const { claims, v } = posterior(x, t);
    return claims.reduce((total, r, k) => total + r * (MEANS[k] - x) / v, 0);
  }
  const denoiser = (x, t) => x + t * t * score(x, t);

  // dx/dt = -t score, in tau with t = STD sinh(tau), by classical Runge-Kutta; works upward and downward.
  function flow(x, t, s, steps = 60, path = null) {
    let tau = Math.asinh(t / STD);
    const h = (Math.asinh(s / STD) - tau) / steps;
    const slope = (y, a) => { const u = STD * Math.sinh(a); return -u * score(y, u) * STD * Math.cosh(a); };
    for (let i = 0; i < steps; i++, tau += h) {
      if (path) path.push([STD * Math.sinh(tau), x]);
      const k1 = slope(x, tau), k2 = slope(x + h / 2 * k1, tau + h / 2);
      const k3 = slope(x + h / 2 * k2, tau + h / 2), k4 = slope(x + h * k3, tau + h);
      x += h / 6 * (k1 + 2 * k2 + 2 * k3 + k4);
    }
    if (path) path.push([s, x]);
    return x;
  }

  function build(root) {
    root.innerHTML = `
      <div class="panels">
        <canvas class="space" aria-label="Trajectory through the chosen point, its tangent and its end"></canvas>
        <canvas class="slice" aria-label="Density at the chosen noise level, split by component"></canvas>
      </div>
      <label><span>noise level <em>t</em></span><input class="t" type="range" min="0.05" max="${T_MAX}" step="0.01" value="2.5"></label>
      <label><span>place <em>x</em></span><input class="x" type="range" min="-6" max="6" step="0.01" value="0.6"></label>
      <output aria-live="polite"></output>`;
    const [space, slice] = root.querySelectorAll("canvas");
    const tInput = root.querySelector(".t"), xInput = root.querySelector(".x"), output = root.querySelector("output");
    const fan = [-6.5, -4, -2, -0.7, 0.7, 2, 4, 6.5].map((x) => { const p = []; flow(x, T_MAX, 0, 60, p); return p; });

    function sheet(canvas) {
      const scale = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
      canvas.width = width * scale; canvas.height = height * scale;
      const g = canvas.getContext("2d");
      g.scale(scale, scale);
      g.font = "12px sans-serif";
      return { g, width, height };
    }
    const left = 34, bottom = 34;
    const placeT = (t, width) => left + (1 - Math.sqrt(t / T_MAX)) * (width - left - 8);
    const placeX = (x, height) => (1 - (x + X_MAX) / (2 * X_MAX)) * (height - bottom);

    function draw() {
      const dark = document.documentElement.dataset.theme === "dark";
      const ink = dark ? "#ddd" : "#222", faint = dark ? "#777" : "#999", exact = dark ? "#56B4E9" : "#0072B2";
      const point = dark ? "#ff9d5c" : "#D55E00";
      const t = Number(tInput.value), x = Number(xInput.value), guess = denoiser(x, t), end = flow(x, t, 0);
      const { claims, v } = posterior(x, t);

      let { g, width, height } = sheet(space);
      const to = ([time, place]) => [placeT(Math.max(time, 0), width), placeX(place, height)];
      const line = (points, colour, size, dash = []) => {
        g.beginPath(); g.strokeStyle = colour; g.lineWidth = size; g.setLineDash(dash);
        points.forEach((p, i) => g[i ? "lineTo" : "moveTo"](...to(p)));
        g.stroke(); g.setLineDash([]);
      };
      const dot = (p, colour, hollow) => {
        g.beginPath(); g.arc(...to(p), 5, 0, 7); g.fillStyle = g.strokeStyle = colour; g.lineWidth = 2;
        hollow ? g.stroke() : g.fill();
      };
      fan.forEach((p) => line(p, faint, 0.7));
      const path = [];
      flow(x, t, 0, 60, path);
      line(path, exact, 2.2);
      // The tangent is straight in t, and the axis is in sqrt(t): draw it piece by piece.
      line(Array.from({ length: 41 }, (_, i) => [t * (1 - i / 40), guess + (x - guess) * (1 - i / 40)]), point, 1.6, [5, 4]);
      dot([t, x], point); dot([0, guess], point, true); dot([0, end], exact);
      g.fillStyle = ink;
      [0, 0.5, 1, 2, 4, 6].forEach((tick) => g.fillText(tick, placeT(tick, width) - 4, height - bottom + 16));
      [-5, 0, 5].forEach((tick) => g.fillText(tick, 10, placeX(tick, height) + 4));
      g.fillText("noise level t", width / 2 - 30, height - 4);
      g.fillText("x", 2, 12);

      ({ g, width, height } = sheet(slice));
      const gauss = (y, m) => 0.5 * Math.exp(-((y - m) ** 2) / (2 * v)) / Math.sqrt(2 * Math.PI * v);
      const peak = Math.max(...MEANS.map((m) => gauss(m, MEANS[0]) + gauss(m, MEANS[1])), gauss(0, MEANS[0]) * 2);
      const across = (y) => left + ((y + X_MAX) / (2 * X_MAX)) * (width - left - 8);
      const up = (p) => (height - bottom) * (1 - 0.9 * p / peak);
      const curve = (f, colour, size) => {
        g.beginPath(); g.strokeStyle = colour; g.lineWidth = size;
        for (let i = 0; i <= 240; i++) { const y = -X_MAX + 2 * X_MAX * i / 240; g[i ? "lineTo" : "moveTo"](across(y), up(f(y))); }
        g.stroke();
      };
      MEANS.forEach((m) => curve((y) => gauss(y, m), faint, 1.2));
      curve((y) => gauss(y, MEANS[0]) + gauss(y, MEANS[1]), exact, 2.2);
      g.strokeStyle = point; g.lineWidth = 1.6;
      g.beginPath(); g.moveTo(across(x), height - bottom); g.lineTo(across(x), up(posterior(x, t).density)); g.stroke();
      g.fillStyle = ink;
      [-5, 0, 5].forEach((tick) => g.fillText(tick, across(tick) - 4, height - bottom + 16));
      g.fillText("x", width / 2, height - 4);
      g.fillText("density at t", left, 12);

      const share = Math.round(100 * claims[1]);
      output.textContent = `t = ${t.toFixed(2)}, x = ${x.toFixed(2)}: the upper mode claims ${share}%, the guess is ` +
        `D = ${guess.toFixed(2)}, the trajectory ends at ${end.toFixed(2)}.`;
    }

    function drag(event) {
      if (event.type === "pointerdown") space.setPointerCapture(event.pointerId);
      else if (!event.buttons) return;
      const box = space.getBoundingClientRect();
      const part = 1 - (event.clientX - box.left - left) / (box.width - left - 8);
      tInput.value = T_MAX * Math.max(part, 0) ** 2;
      xInput.value = (1 - (event.clientY - box.top) / (box.height - bottom)) * 2 * X_MAX - X_MAX;
      draw();
    }
    space.addEventListener("pointerdown", drag);
    space.addEventListener("pointermove", drag);
    [tInput, xInput].forEach((input) => input.addEventListener("input", draw));
    new ResizeObserver(() => requestAnimationFrame(draw)).observe(root);
    new MutationObserver(draw).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    draw();
  }

  if (typeof document !== "undefined") document.querySelectorAll(".live-ode").forEach(build);
  return { denoiser, score, flow };
})();

if (typeof module !== "undefined") module.exports = ctmLiveOde;
