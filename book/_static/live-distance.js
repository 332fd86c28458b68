// What the live figures measure: the distance of a cloud to its truth, point by point or as a whole, and the width of the
// modes. Compared with the package by tests/book/test_live.py.
"use strict";

(() => {
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

  Object.assign((globalThis.ctmMath ??= {}), { directions, ruler, slicedW2, rms, width });
})();
