// Plays a run on a page of its own; `data` and `CELL` are put before it.
const frames = CELL.unpack(data.frames), table = data.elements, last = frames.length - 1;
const $ = (id) => document.getElementById(id), scene = $("scene"), noise = $("noise");
const dark = matchMedia("(prefers-color-scheme: dark)");
let at = last, choice = data.cells.length > 1 ? -1 : 0, playing = 0, closer = 1, asked = false;

// Turning: a matrix of three rows, right, up and towards the viewer; the angle that pictures are taken from.
let turn = (() => {
  const [s, t] = [-24, 16].map((x) => (x * Math.PI) / 180), right = [Math.cos(s), Math.sin(s), 0];
  const away = [-Math.sin(s), Math.cos(s), 0];
  return [right, [0, 1, 2].map((k) => Math.sin(t) * away[k] + Math.cos(t) * (k === 2)),
    [0, 1, 2].map((k) => Math.sin(t) * (k === 2) - Math.cos(t) * away[k])];
})();
const about = (x, y) => { // a drag, in radians, to the right and downwards
  const mix = (a, b, c, s) => a.map((v, k) => c * v + s * b[k]);
  const [r, u, v] = turn, r1 = mix(r, v, Math.cos(x), -Math.sin(x)), v1 = mix(v, r, Math.cos(x), Math.sin(x));
  turn = [r1, mix(u, v1, Math.cos(y), Math.sin(y)), mix(v1, u, Math.cos(y), -Math.sin(y))];
};
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];

// A shaded sphere of each element, drawn once and scaled from then on.
const spheres = {};
function sphere(number) {
  if (spheres[number]) return spheres[number];
  const size = 160, canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
  canvas.width = canvas.height = size;
  const [r, g, b] = table[number].map((x) => 255 * x);
  const ink = (k, white = 0) => `rgb(${[r, g, b].map((x) => Math.round(Math.min(255, x * k) * (1 - white) + 255 * white))})`;
  const light = pen.createRadialGradient(0.36 * size, 0.32 * size, 0.02 * size, 0.46 * size, 0.44 * size, 0.56 * size);
  [[0, ink(1.08, 0.7)], [0.12, ink(1.08, 0.35)], [0.35, ink(1.06, 0.05)], [0.65, ink(0.9)], [0.9, ink(0.62)], [1, ink(0.45)]]
    .forEach(([place, color]) => light.addColorStop(place, color));
  pen.fillStyle = light;
  pen.beginPath(); pen.arc(size / 2, size / 2, size / 2 - 1, 0, 7); pen.fill();
  return (spheres[number] = canvas);
}

const radii = data.cells.map((cell) => {
  const ends = [[1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1]].map((e) => CELL.cart(cell, ...e.map((x) => x / 2)));
  return Math.max(0.5, ...ends.map((p) => Math.hypot(...p))) + 0.5;
});
const shown = () => (choice < 0 ? data.cells.map((_, k) => k) : [choice]);
const SUB = "₀₁₂₃₄₅₆₇₈₉", below = (n) => [...String(n)].map((d) => SUB[d]).join("");
const gcd = (a, b) => (b ? gcd(b, a % b) : a);
function formula(atoms) {
  const count = {};
  for (const a of atoms) if (a.first) count[a.number] = (count[a.number] || 0) + 1;
  const kinds = CELL.elements(atoms, table), common = kinds.length > 1 ? kinds.map((n) => count[n]).reduce(gcd) : 1;
  return kinds.map((n) => table[n][4] + (count[n] > common ? below(count[n] / common) : "")).join("");
}

function pen2d(canvas) { // as sharp as the screen; drawing in CSS pixels
  const scale = Math.min(2, devicePixelRatio || 1), w = canvas.clientWidth, h = canvas.clientHeight;
  if (canvas.width !== Math.round(w * scale) || canvas.height !== Math.round(h * scale)) {
    canvas.width = Math.round(w * scale); canvas.height = Math.round(h * scale);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, w, h);
  return [pen, w, h];
}
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function draw() {
  asked = false;
  const [pen, width, height] = pen2d(scene), list = shown(), size = 2 * Math.max(...list.map((k) => radii[k]));
  let best = null;
  for (let columns = 1; columns <= list.length; columns++) {
    const rows = Math.ceil(list.length / columns), scale = Math.min(width / columns / size, (height / rows - 24) / size);
    if (!best || scale > best.scale) best = { columns, rows, scale };
  }
  const scale = best.scale * closer, all = [], edge = css("--edge"), ink = css("--text");
  list.forEach((k, n) => {
    const w = width / best.columns, h = height / best.rows;
    const x0 = ((n % best.columns) + 0.5) * w, y0 = Math.floor(n / best.columns) * h + (h - 24) / 2;
    const cell = data.cells[k], atoms = CELL.atoms(frames[at], k, cell), far = 5 * radii[k], jobs = [];
    const project = (p) => {
      const z = dot(turn[2], p), zoom = (scale * far) / Math.max(far - z, 0.5 * radii[k]);
      return [x0 + dot(turn[0], p) * zoom, y0 - dot(turn[1], p) * zoom, z, zoom];
    };
    const line = (a, b, color, wide) => jobs.push([(a[2] + b[2]) / 2, () => {
      pen.strokeStyle = color; pen.lineWidth = wide * (a[3] + b[3]) / 2;
      pen.beginPath(); pen.moveTo(a[0], a[1]); pen.lineTo(b[0], b[1]); pen.stroke();
    }]);
    const middle = CELL.cart(cell, 0.5, 0.5, 0.5), PIECES = 14;
    for (const [from, to] of CELL.EDGES) {
      const points = [...Array(PIECES + 1).keys()].map((i) =>
        CELL.cart(cell, ...from.map((x, j) => x + ((to[j] - x) * i) / PIECES)).map((x, j) => x - middle[j]));
      for (let i = 0; i < PIECES; i++) {
        const a = points[i], b = points[i + 1], m = a.map((x, j) => (x + b[j]) / 2);
        if (atoms.some((o) => Math.hypot(m[0] - o.p[0], m[1] - o.p[1], m[2] - o.p[2]) < table[o.number][3])) continue;
        line(project(a), project(b), edge, 0.045);
      }
    }
    for (const [one, other] of CELL.bonds(atoms, table)) {
      const m = one.p.map((x, j) => (x + other.p[j]) / 2);
      for (const o of [one, other]) {
        const c = (f) => `rgb(${table[o.number].slice(0, 3).map((x) => Math.round(255 * x * f))})`;
        const way = m.map((x, j) => x - o.p[j]), from = Math.min(1, (0.9 * table[o.number][3]) / Math.hypot(...way));
        const a = project(o.p.map((x, j) => x + from * way[j])), b = project(m);
        line(a, b, c(0.55), 0.22); line(a, b, c(0.9), 0.14);
      }
    }
    for (const o of atoms) {
      const p = project(o.p), r = table[o.number][3] * p[3];
      jobs.push([p[2], () => pen.drawImage(sphere(o.number), p[0] - r, p[1] - r, 2 * r, 2 * r)]);
    }
    pen.save(); pen.beginPath();
    if (list.length > 1) { pen.rect(x0 - w / 2, y0 - (h - 24) / 2, w, h); pen.clip(); }
    pen.lineCap = "round";
    jobs.sort((a, b) => a[0] - b[0]).forEach(([, job]) => job());
    pen.restore();
    pen.fillStyle = ink; pen.textAlign = "center"; pen.font = "15px system-ui, sans-serif";
    pen.fillText(formula(atoms), x0, y0 + Math.min((h - 24) / 2, 0.46 * size * best.scale) + 16);
    all.push(...atoms);
  });
  const kinds = CELL.elements(all, table), legend = $("legend");
  if (legend.dataset.key !== kinds.join()) {
    legend.dataset.key = kinds.join();
    legend.replaceChildren(...kinds.map((n) => {
      const item = document.createElement("span"), ball = document.createElement("i");
      ball.style.background = `rgb(${table[n].slice(0, 3).map((x) => Math.round(255 * x))})`;
      item.append(ball, table[n][4]);
      return item;
    }));
  }
  $("say").textContent = `step ${data.steps[at]} of ${data.steps[last]}, noise level ${data.sigmas[at]} Å`;
  curve();
}
function curve() {
  const [pen, width, height] = pen2d(noise), logs = data.sigmas.map(Math.log10), low = Math.min(...logs), high = Math.max(...logs);
  const x = (i) => 8 + ((width - 16) * i) / Math.max(1, last), y = (i) => height - 6 - ((height - 24) * (logs[i] - low)) / (high - low || 1);
  pen.fillStyle = css("--muted"); pen.font = "12px system-ui, sans-serif"; pen.textAlign = "right";
  pen.fillText("noise level (log)", width - 8, 12);
  pen.strokeStyle = css("--curve"); pen.lineWidth = 1.6; pen.beginPath();
  for (let i = 0; i <= last; i++) pen.lineTo(x(i), y(i));
  pen.stroke();
  pen.strokeStyle = css("--text"); pen.beginPath(); pen.moveTo(x(at), 0); pen.lineTo(x(at), height); pen.stroke();
}
const ask = () => { if (!asked) { asked = true; requestAnimationFrame(draw); } };
function go(i) {
  at = Math.max(0, Math.min(last, Math.round(i)));
  $("slider").value = at;
  ask();
}
function play(on) {
  playing = on ? performance.now() : 0;
  $("play").textContent = on ? "❚❚" : "▶";
  $("play").setAttribute("aria-label", on ? "pause" : "play");
  if (!on) return;
  let place = at === last ? 0 : at, before = performance.now();
  go(place);
  const mine = playing, step = (now) => {
    if (playing !== mine) return;
    if (Math.abs(at - place) > 1) place = at; // the reader has scrolled elsewhere
    place += Math.max(0, now - before) / 1000 * Number($("speed").value); before = now;
    go(Math.floor(place));
    if (place >= last) play(false); else requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}

$("about").textContent = data.about + ". Drag to turn, scroll to come closer.";
$("slider").max = last;
if (data.cells.length > 1) $("crystal").append(new Option("all", -1), ...data.names.map((name, k) => new Option(name, k)));
else $("which").hidden = true;
$("slider").addEventListener("input", (e) => { play(false); go(Number(e.target.value)); });
$("crystal").addEventListener("change", (e) => { choice = Number(e.target.value); closer = 1; ask(); });
$("back").addEventListener("click", () => { play(false); go(at - 1); });
$("next").addEventListener("click", () => { play(false); go(at + 1); });
$("play").addEventListener("click", () => play(!playing));
scene.addEventListener("pointerdown", (e) => scene.setPointerCapture(e.pointerId));
scene.addEventListener("pointermove", (e) => { if (e.buttons) { about(e.movementX / 150, e.movementY / 150); ask(); } });
scene.addEventListener("wheel", (e) => {
  e.preventDefault(); closer = Math.max(0.3, Math.min(6, closer * Math.exp(-e.deltaY / 900))); ask();
}, { passive: false });
const point = (e) => {
  if (!e.buttons) return;
  const box = noise.getBoundingClientRect();
  play(false); go(((e.clientX - box.left - 8) / (box.width - 16)) * last);
};
noise.addEventListener("pointerdown", (e) => { noise.setPointerCapture(e.pointerId); point(e); });
noise.addEventListener("pointermove", point);
addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.target.tagName === "SELECT") return;
  const far = e.shiftKey ? 10 : 1;
  if (e.key === " " && e.target.tagName !== "BUTTON") play(!playing);
  else if (e.key === "ArrowRight") { play(false); go(at + far); }
  else if (e.key === "ArrowLeft") { play(false); go(at - far); }
  else if (e.key === "Home") { play(false); go(0); }
  else if (e.key === "End") { play(false); go(last); }
  else return;
  e.preventDefault();
});
new ResizeObserver(ask).observe(scene);
dark.addEventListener("change", ask);
go(last);
