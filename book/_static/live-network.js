// A stored network of the live figures, with CTM's parametrisation. Compared with torch by tests/book/test_live.py.
"use strict";

(() => {
  // The weights of four units side by side, as hidden() reads them: a third less time than row by row.
  const byFour = (w, columns) => w.map((_, i) => {
    const unit = 4 * Math.floor(i / (4 * columns)) + i % 4;
    return w[unit * columns + Math.floor(i / 4) % columns];
  });

  // A stored model: its card, and float32 weights in base64, layer by layer, weights (rows) before biases.
  function network({ dim, width, layers, features, gain, sigma_data, sigma_min, sigma_max, weights }) {
    const bytes = Uint8Array.from(atob(weights), (letter) => letter.charCodeAt(0));
    const numbers = Float64Array.from(new Float32Array(bytes.buffer)); // float64: V8 then converts nothing on its way
    let from = 0;
    const take = (count) => numbers.subarray(from, from += count);
    const frequencies = take(features), body = [];
    for (let i = 0; i <= layers; i++) {
      const columns = i ? width : dim + 2 * (2 * features + 1), rows = i < layers ? width : dim, w = take(rows * columns);
      body.push({ rows, columns, w: i && i < layers ? byFour(w, columns) : w, b: take(rows) });
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
      for (let r = 0, u = 0; r < rows; r += 4) {
        let a0 = b[r], a1 = b[r + 1], a2 = b[r + 2], a3 = b[r + 3], b0 = a0, b1 = a1, b2 = a2, b3 = a3;
        for (let q = 0; q < columns; q++, u += 4) {
          const x = a[i0 + q], y = a[i1 + q], w0 = w[u], w1 = w[u + 1], w2 = w[u + 2], w3 = w[u + 3];
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

  // The same model with a last layer of zeros: it answers 0, as an untrained one about does.
  const silenced = (model) => ({ ...model, body: model.body.map((layer, l) => (
    l < model.body.length - 1 ? layer : { ...layer, w: layer.w.map(() => 0), b: layer.b.map(() => 0) })) });

  // What one pair adds to the consistency loss: the squared distance in units of c_out(t) (1 - s/t), its mean over coordinates.
  const pairLoss = (sd, t, s, estimate, target) => estimate.reduce((sum, value, i) => sum + (value - target[i]) ** 2, 0)
    / estimate.length / (t * sd / Math.hypot(t, sd) * (1 - s / t)) ** 2;

  Object.assign((globalThis.ctmMath ??= {}), { network, jump, silenced, pairLoss });
})();
