// What a frame looks like before anybody draws it: shared by the notebook's viewer and by films in a file.
const CELL = (() => {
  const TOLERANCE = 0.02; // fractional; an atom this close to a face is drawn on the opposite face too
  const cart = (cell, x, y, z) => [0, 1, 2].map((k) => x * cell[k] + y * cell[3 + k] + z * cell[6 + k]);

  const EDGES = [];
  for (let a = 0; a < 3; a++) for (const i of [0, 1]) for (const j of [0, 1]) {
    const from = [0, 0, 0];
    from[(a + 1) % 3] = i; from[(a + 2) % 3] = j;
    const to = from.slice(); to[a] = 1;
    EDGES.push([from, to]);
  }

  // Frames from what `render.packed` made of them.
  function unpack(batches) {
    const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer, frames = [];
    for (const { shape: [count, crystals, sites], x, z, s } of batches) {
      const all = new Uint16Array(bytes(x)), types = new Uint8Array(bytes(z)), score = s ? new Int16Array(bytes(s)) : null;
      for (let f = 0, n = crystals * sites; f < count; f++)
        frames.push({ sites, x: all.subarray(3 * n * f, 3 * n * (f + 1)), z: types.subarray(n * f, n * (f + 1)),
          s: score && score.subarray(3 * n * f, 3 * n * (f + 1)) });
    }
    return frames;
  }

  // The atoms to draw, in Å from the middle of their cell; a copy for every face that an atom lies on.
  function atoms(frame, which, cell) {
    const middle = cart(cell, 0.5, 0.5, 0.5), out = [];
    for (let site = which * frame.sites; site < (which + 1) * frame.sites; site++) {
      const number = frame.z[site];
      if (!number) continue;
      const choices = [0, 1, 2].map((k) => {
        const x = frame.x[3 * site + k] / 65536;
        return x < TOLERANCE ? [x, x + 1] : x > 1 - TOLERANCE ? [x, x - 1] : [x];
      });
      let first = true;
      for (const x of choices[0]) for (const y of choices[1]) for (const z of choices[2]) {
        const p = cart(cell, x, y, z);
        out.push({ number, which, site, first, p: [p[0] - middle[0], p[1] - middle[1], p[2] - middle[2]] });
        first = false;
      }
    }
    return out;
  }

  // Pairs of atoms of one crystal that are joined, by the rule of `render.scene.bonded_pairs`.
  function bonds(list, table) {
    const n = list.length, near = new Float64Array(n).fill(Infinity), close = [], out = [];
    for (let i = 0; i < n; i++) for (let j = 0; j < i; j++) {
      const a = list[i].p, b = list[j].p, d = Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
      if (d < near[i]) near[i] = d;
      if (d < near[j]) near[j] = d;
      if (d > 0.3 && d < 1.15 * (table[list[i].number][6] + table[list[j].number][6])) close.push([i, j, d]);
    }
    for (const [i, j, d] of close) if (d < 1.2 * Math.min(near[i], near[j])) out.push([list[i], list[j]]);
    return out;
  }

  // The elements of some atoms as a chemist writes them.
  const elements = (list, table) => [...new Set(list.map((a) => a.number))].sort((a, b) => table[a][5] - table[b][5]);

  return { cart, EDGES, unpack, atoms, bonds, elements };
})();
