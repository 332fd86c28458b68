// The mathematics of the live figures: Gaussian mixtures and their exact flow map, the network with CTM's
// parametrisation, samplers, and a distance. A cloud of n points is a Float64Array, one point after the other.
// Plain script, no module: it must run from file://. tests/test_live.py compares every function with the package.
"use strict";

const ctmMath = (() => {
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
  function score(world, x, t, out = new Float64Array(x.length)) {
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
      out[at] = s0 / sum;
      if (dim > 1) out[at + 1] = s1 / sum;
    }
    return out;
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

  // The exact map G(x, t, s).
  const exact = (world, x, t, s) => (s < t ? trajectories(world, x, t, s).points[NODES] : Float64Array.from(x));

  // A stored model: its card, and float32 weights in base64, layer by layer, weights (rows) before biases.
  function network({ dim, width, layers, features, gain, sigma_data, sigma_min, sigma_max, weights }) {
    const bytes = Uint8Array.from(atob(weights), (letter) => letter.charCodeAt(0));
    const numbers = Float64Array.from(new Float32Array(bytes.buffer)); // float64: V8 then converts nothing on its way
    let from = 0;
    const take = (count) => numbers.subarray(from, from += count);
    const frequencies = take(features), body = [];
    for (let i = 0; i <= layers; i++) {
      const columns = i ? width : dim + 2 * (2 * features + 1), rows = i < layers ? width : dim;
      body.push({ rows, columns, w: take(rows * columns), b: take(rows) });
    }
    return { dim, width, gain, frequencies, body, sigma_data, sigma_min, sigma_max, room: [] };
  }

  // x / (1 + exp(-x)), the second factor read from a table: to 1e-6, and twice as fast in all as exp.
  const SPAN = 18, FINE = 256;
  const SIGMOID = Float64Array.from({ length: 2 * SPAN * FINE + 2 }, (_, i) => 1 / (1 + Math.exp(SPAN - i / FINE)));
  const silu = (x) => {
    const place = ((x > SPAN ? SPAN : x < -SPAN ? -SPAN : x) + SPAN) * FINE, i = place | 0, low = SIGMOID[i];
    return x * (low + (place - i) * (SIGMOID[i + 1] - low));
  };

  // out = SiLU(W a + b) for n points, n even and the units a multiple of 4: two points and four units at a time stay in
  // the processor's registers.
  function hidden(layer, a, n, out) {
    const { rows, columns, w, b } = layer;
    for (let i = 0; i < n; i += 2) {
      const i0 = i * columns, i1 = i0 + columns;
      for (let r = 0; r < rows; r += 4) {
        const u0 = r * columns, u1 = u0 + columns, u2 = u1 + columns, u3 = u2 + columns;
        let a0 = b[r], a1 = b[r + 1], a2 = b[r + 2], a3 = b[r + 3], b0 = a0, b1 = a1, b2 = a2, b3 = a3;
        for (let q = 0; q < columns; q++) {
          const x = a[i0 + q], y = a[i1 + q], w0 = w[u0 + q], w1 = w[u1 + q], w2 = w[u2 + q], w3 = w[u3 + q];
          a0 += w0 * x; a1 += w1 * x; a2 += w2 * x; a3 += w3 * x;
          b0 += w0 * y; b1 += w1 * y; b2 += w2 * y; b3 += w3 * y;
        }
        const o = i * rows + r, p = o + rows;
        out[o] = silu(a0); out[o + 1] = silu(a1); out[o + 2] = silu(a2); out[o + 3] = silu(a3);
        out[p] = silu(b0); out[p + 1] = silu(b1); out[p + 2] = silu(b2); out[p + 3] = silu(b3);
      }
    }
  }

  // G_theta(x, t, s) = (s/t) x + (1 - s/t) (c_skip x + c_out F(c_in x, log t / 4, log s / 4)), t and s shared by all points.
  function jump(model, x, t, s) {
    const { dim, width, gain, frequencies, body, sigma_data: sd } = model, n = x.length / dim, padded = 2 * Math.ceil(n / 2);
    if (!model.room.length || model.room[0].length < padded * width) {
      model.room = [new Float64Array(padded * width), new Float64Array(padded * width)];
    }
    let [now, next] = model.room;
    const spread = Math.sqrt(t * t + sd * sd), scale = gain / spread, times = [Math.log(t) / 4, Math.log(s) / 4];
    const angles = times.flatMap((tau) => Array.from(frequencies, (frequency) => tau * frequency));
    const inputs = [...times, ...angles.map(Math.sin), ...angles.map(Math.cos)];
    const { columns, w, b } = body[0];
    for (let r = 0; r < width; r++) { // the first layer: what the times add is the same for every point
      let shared = b[r];
      for (let q = 0; q < inputs.length; q++) shared += w[r * columns + dim + q] * inputs[q];
      const w0 = w[r * columns] * scale, w1 = dim > 1 ? w[r * columns + 1] * scale : 0;
      for (let i = 0; i < n; i++) now[i * width + r] = silu(shared + w0 * x[i * dim] + (dim > 1 ? w1 * x[i * dim + 1] : 0));
    }
    for (let l = 1; l < body.length - 1; l++, [now, next] = [next, now]) hidden(body[l], now, padded, next);
    const last = body[body.length - 1], keep = s / t, skip = sd * sd / (spread * spread), size = t * sd / spread;
    const out = new Float64Array(x.length);
    for (let i = 0; i < n; i++) {
      for (let d = 0; d < dim; d++) {
        let sum = last.b[d];
        for (let q = 0; q < width; q++) sum += last.w[d * width + q] * now[i * width + q];
        out[i * dim + d] = keep * x[i * dim + d] + (1 - keep) * (skip * x[i * dim + d] + size * sum);
      }
    }
    return out;
  }

  // The noise level at a fraction of the way down from high to low, equal steps in t^(1/7); its inverse; and a grid of them.
  const level = (fraction, low, high) => (high ** (1 / 7) + fraction * (low ** (1 / 7) - high ** (1 / 7))) ** 7;
  const fractionOf = (t, low, high) => (high ** (1 / 7) - t ** (1 / 7)) / (high ** (1 / 7) - low ** (1 / 7));
  const times = (n, low, high) =>
    Array.from({ length: n + 1 }, (_, i) => (i === 0 ? high : i === n ? low : level(i / n, low, high)));

  // Euler steps x <- (u/t) x + (1 - u/t) D(x, t) with the exact denoiser; all points on the way.
  function euler(world, x, levels) {
    const path = [Float64Array.from(x)];
    for (let i = 0; i + 1 < levels.length; i++) {
      const [t, u] = [levels[i], levels[i + 1]], before = path[i], guess = denoiser(world, before, t);
      path.push(before.map((value, j) => u / t * value + (1 - u / t) * guess[j]));
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

  const COUNT = 16;
  const directions = (dim) => (dim === 1 ? [[1]]
    : Array.from({ length: COUNT }, (_, i) => [Math.cos(Math.PI * i / COUNT), Math.sin(Math.PI * i / COUNT)]));
  const along = (x, direction) => {
    const dim = direction.length, out = new Float64Array(x.length / dim);
    for (let i = 0; i < out.length; i++) for (let d = 0; d < dim; d++) out[i] += direction[d] * x[i * dim + d];
    return out.sort();
  };

  // A true cloud of many * n points, prepared as a ruler for clouds of n points: along each direction, sorted, the mean
  // and the mean square of every run of `many`, which is all that the distance to it needs.
  function ruler(truth, dim, n) {
    return directions(dim).map((direction) => {
      const sorted = along(truth, direction), many = sorted.length / n;
      const mean = new Float64Array(n), square = new Float64Array(n);
      sorted.forEach((value, i) => { mean[Math.floor(i / many)] += value / many; square[Math.floor(i / many)] += value * value / many; });
      return { direction, mean, square };
    });
  }

  // Sliced W2: the root mean square over directions of the distance between sorted projections.
  function slicedW2(x, prepared) {
    let total = 0;
    for (const { direction, mean, square } of prepared) {
      const sorted = along(x, direction);
      for (let i = 0; i < sorted.length; i++) total += (sorted[i] * (sorted[i] - 2 * mean[i]) + square[i]) / sorted.length;
    }
    return Math.sqrt(Math.max(total, 0) / prepared.length);
  }

  // Root mean square, over points, of the distance between two clouds.
  const rms = (x, y, dim) => Math.sqrt(x.reduce((sum, value, i) => sum + (value - y[i]) ** 2, 0) * dim / x.length);

  // Root mean square distance of points to the nearest mean of the world.
  function width(world, x) {
    const { k: K, dim, mu } = world;
    let total = 0;
    for (let i = 0; i < x.length; i += dim) {
      let nearest = Infinity;
      for (let k = 0; k < K; k++) {
        let square = 0;
        for (let d = 0; d < dim; d++) square += (x[i + d] - mu[k * dim + d]) ** 2;
        if (square < nearest) nearest = square;
      }
      total += nearest;
    }
    return Math.sqrt(total * dim / x.length);
  }

  return { normals, mixture, sample, score, denoiser, trajectories, at, timeOf, exact, network, jump, level, fractionOf, times, euler,
    gammaSampling, directions, ruler, slicedW2, rms, width };
})();

if (typeof module !== "undefined") module.exports = ctmMath;
