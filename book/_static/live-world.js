// A world of the live figures: a Gaussian mixture, samples of it, and its exact trajectories. A cloud of n points is a
// Float64Array, one point after the other. Plain script, no module: it must run from file://. tests/book/test_live.py compares
// every function with the package.
"use strict";

(() => {
  const NODES = 192; // steps of a stored trajectory

  // Standard normal numbers from a seed: mulberry32 and Box-Muller.
  function normals(seed) {
    let state = seed >>> 0;
    const uniform = () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let z = Math.imul(state ^ (state >>> 15), state | 1);
      z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
      return (((z ^ (z >>> 14)) >>> 0) + 0.5) / 4294967296;
    };
    const draw = (n) => Float64Array.from({ length: n }, () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
    return { draw, uniform };
  }

  // A world as ctm.data has it, from its means (k lists), standard deviations and weights.
  function mixture({ means, stds, weights, sigma_data, sigma_min, sigma_max }) {
    return { k: means.length, dim: means[0].length, mu: Float64Array.from(means.flat()), stds: Float64Array.from(stds),
      logWeights: Float64Array.from(weights, Math.log), weights, sigma_data, sigma_min, sigma_max };
  }

  function sample(world, n, random) {
    const { dim } = world, x = random.draw(n * dim);
    for (let i = 0; i < n; i++) {
      let left = random.uniform(), k = 0;
      while (k < world.k - 1 && (left -= world.weights[k]) > 0) k++;
      for (let d = 0; d < dim; d++) x[i * dim + d] = world.mu[k * dim + d] + world.stds[k] * x[i * dim + d];
    }
    return x;
  }

  // Gradient of log p_t: the sum over components of r_k (mu_k - x) / (c_k^2 + t^2), r_k the share that x came from k.
  // The log density of each point goes into `density`, where one is given.
  function score(world, x, t, out = new Float64Array(x.length), density = null) {
    const { k: K, dim, mu, stds, logWeights } = world;
    const inverse = new Float64Array(K), constant = new Float64Array(K), logs = new Float64Array(K);
    for (let k = 0; k < K; k++) {
      inverse[k] = 1 / (stds[k] * stds[k] + t * t);
      constant[k] = logWeights[k] + 0.5 * dim * Math.log(inverse[k]);
    }
    for (let at = 0; at < x.length; at += dim) {
      const x0 = x[at], x1 = dim > 1 ? x[at + 1] : 0;
      let top = -Infinity;
      for (let k = 0; k < K; k++) {
        const a = mu[k * dim] - x0, b = dim > 1 ? mu[k * dim + 1] - x1 : 0;
        logs[k] = constant[k] - 0.5 * inverse[k] * (a * a + b * b);
        if (logs[k] > top) top = logs[k];
      }
      let sum = 0, s0 = 0, s1 = 0;
      for (let k = 0; k < K; k++) {
        if (logs[k] < top - 40) continue; // less than 1e-17 of the largest
        const share = Math.exp(logs[k] - top), pull = share * inverse[k];
        sum += share;
        s0 += pull * (mu[k * dim] - x0);
        if (dim > 1) s1 += pull * (mu[k * dim + 1] - x1);
      }
      if (density) density[at / dim] = top + Math.log(sum) - 0.5 * dim * Math.log(2 * Math.PI);
      out[at] = s0 / sum;
      if (dim > 1) out[at + 1] = s1 / sum;
    }
    return out;
  }

  // The share r_k of one point that each component claims at noise level t.
  function claims({ stds, logWeights, mu, dim }, x, t) {
    const logs = stds.map((std, k) => {
      const square = x.reduce((sum, value, d) => sum + (value - mu[k * dim + d]) ** 2, 0), v = std * std + t * t;
      return logWeights[k] - 0.5 * square / v - 0.5 * dim * Math.log(v);
    });
    const top = logs.reduce((a, b) => Math.max(a, b)), terms = logs.map((log) => Math.exp(log - top));
    const sum = terms.reduce((a, b) => a + b);
    return terms.map((term) => term / sum);
  }

  // D(x, t) = x + t^2 score(x, t).
  const denoiser = (world, x, t) => score(world, x, t).map((value, i) => x[i] + t * t * value);

  // Trajectories through x at time t down to s: classical Runge-Kutta on dx/dt = -t score, in tau with t = c sinh(tau), c
  // the smallest standard deviation. Points and slopes are kept at every step, so that any time between can be read off.
  function trajectories(world, x, t, s, steps = NODES) {
    const c = Math.min(...world.stds), first = Math.asinh(t / c), h = (Math.asinh(s / c) - first) / steps, n = x.length;
    const slope = (y, tau, out) => {
      const u = c * Math.sinh(tau), factor = -u * c * Math.cosh(tau);
      score(world, y, u, out);
      for (let i = 0; i < n; i++) out[i] *= factor;
      return out;
    };
    const points = [Float64Array.from(x)], slopes = [slope(x, first, new Float64Array(n))];
    const y = new Float64Array(n), k2 = new Float64Array(n), k3 = new Float64Array(n), k4 = new Float64Array(n);
    const ahead = (from, k, step) => { for (let i = 0; i < n; i++) y[i] = from[i] + step * k[i]; return y; };
    for (let j = 0; j < steps; j++) {
      const from = points[j], k1 = slopes[j], tau = first + j * h, next = new Float64Array(n);
      slope(ahead(from, k1, h / 2), tau + h / 2, k2);
      slope(ahead(from, k2, h / 2), tau + h / 2, k3);
      slope(ahead(from, k3, h), tau + h, k4);
      for (let i = 0; i < n; i++) next[i] = from[i] + h / 6 * (k1[i] + 2 * k2[i] + 2 * k3[i] + k4[i]);
      points.push(next);
      slopes.push(slope(next, tau + h, new Float64Array(n)));
    }
    return { points, slopes, first, h, c, steps };
  }

  // The points of stored trajectories at time t, by cubic Hermite interpolation in tau.
  function at({ points, slopes, first, h, c, steps }, t) {
    const place = Math.min(Math.max((Math.asinh(t / c) - first) / h, 0), steps);
    const j = Math.min(Math.floor(place), steps - 1), f = place - j;
    const a = points[j], b = points[j + 1], da = slopes[j], db = slopes[j + 1];
    const wb = f * f * (3 - 2 * f), wa = 1 - wb, va = h * f * (1 - f) * (1 - f), vb = -h * f * f * (1 - f);
    return a.map((value, i) => wa * value + wb * b[i] + va * da[i] + vb * db[i]);
  }

  const timeOf = (path, j) => path.c * Math.sinh(path.first + j * path.h);

  Object.assign((globalThis.ctmMath ??= {}), { normals, mixture, sample, score, claims, denoiser, trajectories, at, timeOf });
})();
