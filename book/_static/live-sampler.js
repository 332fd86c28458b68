// Noise levels and samplers of the live figures. Compared with the package by tests/book/test_live.py.
"use strict";

(() => {
  // The noise level at a fraction of the way down from high to low, equal steps in t^(1/rho); its inverse; and a grid of them.
  const level = (fraction, low, high, rho = 7) => (high ** (1 / rho) + fraction * (low ** (1 / rho) - high ** (1 / rho))) ** rho;
  const fractionOf = (t, low, high) => (high ** (1 / 7) - t ** (1 / 7)) / (high ** (1 / 7) - low ** (1 / 7));
  const times = (n, low, high, rho = 7) =>
    Array.from({ length: n + 1 }, (_, i) => (i === 0 ? high : i === n ? low : level(i / n, low, high, rho)));

  // Euler steps x <- (u/t) x + (1 - u/t) D(x, t) with the exact denoiser; all points on the way.
  function euler(world, x, levels) {
    const path = [Float64Array.from(x)];
    for (let i = 0; i + 1 < levels.length; i++) {
      const [t, u] = [levels[i], levels[i + 1]], before = path[i], guess = ctmMath.denoiser(world, before, t);
      path.push(before.map((value, j) => u / t * value + (1 - u / t) * guess[j]));
    }
    return path;
  }

  // Heun's steps: the mean of the slopes at both ends of an Euler step; all points on the way.
  function heun(world, x, levels) {
    const path = [Float64Array.from(x)];
    for (let i = 0; i + 1 < levels.length; i++) {
      const [t, u] = [levels[i], levels[i + 1]], before = path[i], first = ctmMath.score(world, before, t);
      const second = ctmMath.score(world, before.map((value, j) => value - (u - t) * t * first[j]), u);
      path.push(before.map((value, j) => value - (u - t) / 2 * (t * first[j] + u * second[j])));
    }
    return path;
  }

  // Gamma-sampling: x <- G(x, t, sqrt(1 - gamma^2) r), then noise up to the level r. map(x, t, s) is any flow map;
  // noise holds fresh normal numbers for every step, one array each.
  function gammaSampling(map, x, levels, gamma, noise, sigmaMin) {
    for (let i = 0; i + 1 < levels.length; i++) {
      const [t, r] = [levels[i], levels[i + 1]], low = Math.max(Math.sqrt(1 - gamma * gamma) * r, Math.min(r, sigmaMin));
      x = map(x, t, low);
      if (low < r) {
        const size = Math.sqrt(r * r - low * low);
        x = x.map((value, j) => value + size * noise[i][j]);
      }
    }
    return x;
  }

  Object.assign((globalThis.ctmMath ??= {}), { level, fractionOf, times, euler, heun, gammaSampling });
})();
