// Vectors as the gateway sends them, and what is compared of them. Everything is float32, row after row.

/** A matrix of `rows` vectors of `dim` numbers, from base64 of little-endian float32, one string for each row. */
export function decode(rows, dim) {
  const data = new Float32Array(rows.length * dim);
  rows.forEach((row, number) => data.set(floats(row), number * dim));
  return { data, rows: rows.length, dim };
}

function floats(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  return new Float32Array(bytes.buffer);
}

/** The first `dim` numbers of each vector, made unit length again where `unit`: what `dimensions` asks the gateway for. */
export function shortened(matrix, dim, unit) {
  if (dim >= matrix.dim) return matrix;
  const data = new Float32Array(matrix.rows * dim);
  for (let row = 0; row < matrix.rows; row++) {
    const part = matrix.data.subarray(row * matrix.dim, row * matrix.dim + dim);
    const length = unit ? norm(part) || 1 : 1;
    for (let at = 0; at < dim; at++) data[row * dim + at] = part[at] / length;
  }
  return { data, rows: matrix.rows, dim };
}

/** Cosines of the first `rows` vectors with each other: {size, values}, row after row. */
export function cosines(matrix, rows = matrix.rows) {
  const size = Math.min(rows, matrix.rows);
  const { data, dim } = matrix;
  const lengths = Array.from({ length: size }, (_, row) => norm(vector(matrix, row)) || 1);
  const values = new Float32Array(size * size);
  for (let a = 0; a < size; a++) {
    for (let b = a; b < size; b++) {
      let sum = 0;
      for (let at = 0; at < dim; at++) sum += data[a * dim + at] * data[b * dim + at];
      values[a * size + b] = values[b * size + a] = sum / (lengths[a] * lengths[b]);
    }
  }
  return { size, values };
}

/** Cell by cell, what `one` has more than `other`. */
export function difference(one, other) {
  return { size: one.size, values: one.values.map((value, at) => value - other.values[at]) };
}

export function vector(matrix, row) {
  return matrix.data.subarray(row * matrix.dim, (row + 1) * matrix.dim);
}

/** All pairs of different texts as [a, b, value], the nearest first. */
export function pairs({ size, values }) {
  const found = [];
  for (let a = 0; a < size; a++) for (let b = a + 1; b < size; b++) found.push([a, b, values[a * size + b]]);
  return found.sort((one, other) => other[2] - one[2]);
}

/** For each text the number of the one that is nearest to it; -1 where it is alone. */
export function nearest({ size, values }) {
  return Array.from({ length: size }, (_, row) => {
    let best = -1;
    for (let other = 0; other < size; other++) {
      if (other !== row && (best < 0 || values[row * size + other] > values[row * size + best])) best = other;
    }
    return best;
  });
}

/** The least and the largest value between different texts. */
export function extent({ size, values }) {
  let least = Infinity, most = -Infinity;
  for (let at = 0; at < values.length; at++) {
    if (at % (size + 1) === 0) continue;
    least = Math.min(least, values[at]);
    most = Math.max(most, values[at]);
  }
  return size > 1 ? [least, most] : [0, 1];
}

function norm(numbers) {
  let sum = 0;
  for (const each of numbers) sum += each * each;
  return Math.sqrt(sum);
}
