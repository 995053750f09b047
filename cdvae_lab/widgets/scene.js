// Run by nglview's view (`this` is `view`, `NGL` is in reach). Draws crystals from buffers that stay where they are: a
// frame only fills in other positions, colours and radii, so that species and cells are right in every frame.
// All frames live here, so that scrubbing needs no kernel.
((view) => {
  if (view.lab) return;
  const TOLERANCE = 0.02; // fractional; an atom this close to a face is drawn on the opposite face too
  const lab = { scene: null, frames: [], index: 0, comp: null, shown: -1 };
  view.lab = lab;
  const stage = view.stage, viewer = stage.viewer, box = viewer.container;
  let base = null, capacity = 0, buffers = {}, signature = "";

  box.style.width = "100%";
  const legend = document.createElement("div");
  legend.style.cssText =
    "position:absolute;left:10px;bottom:8px;font:13px var(--jp-ui-font-family,sans-serif);pointer-events:none;" +
    "display:flex;flex-wrap:wrap;gap:3px 12px";
  box.appendChild(legend);

  function theme() {
    const style = getComputedStyle(view.el);
    const name = document.body.dataset.jpThemeLight;
    const dark = name ? name === "false" : false;
    const background = style.getPropertyValue("--jp-layout-color0").trim() || (dark ? "#111" : "#fff");
    legend.style.color = dark ? "#e5e9f0" : "#1e293b";
    lab.edge = dark ? [0.63, 0.68, 0.77] : [0.28, 0.33, 0.41];
    lab.arrow = dark ? [1.0, 0.85, 0.35] : [0.75, 0.25, 0.05];
    stage.setParameters({ backgroundColor: background, clipDist: 0, clipNear: 0, clipFar: 100, fogNear: 100, fogFar: 100,
      cameraType: "perspective", cameraFov: 22, tooltip: false, hoverTimeout: -1, lightIntensity: 1.05, ambientIntensity: 0.35 });
  }

  const visible = () => (lab.scene.choice === null ? lab.scene.cells.map((_, i) => i) : [lab.scene.choice]);
  const cart = (cell, x, y, z) => [0, 1, 2].map((k) => x * cell[k] + y * cell[3 + k] + z * cell[6 + k]);

  // The atoms to draw, in Å from the middle of their cell; a copy for every face that an atom lies on.
  function atoms(frame, which) {
    const cell = lab.scene.cells[which], shift = lab.scene.shift[which], middle = cart(cell, 0.5, 0.5, 0.5);
    const out = [];
    frame.z[which].forEach((number, atom) => {
      const choices = [0, 1, 2].map((k) => {
        let x = frame.x[which][3 * atom + k] - shift[k];
        x -= Math.floor(x + 1e-6);
        return x < TOLERANCE ? [x, x + 1] : x > 1 - TOLERANCE ? [x, x - 1] : [x];
      });
      let first = true;
      for (const x of choices[0]) for (const y of choices[1]) for (const z of choices[2]) {
        const p = cart(cell, x, y, z);
        out.push({ number, which, atom, first, p: [p[0] - middle[0], p[1] - middle[1], p[2] - middle[2]] });
        first = false;
      }
    });
    return out;
  }

  const EDGES = [];
  for (let a = 0; a < 3; a++) for (const i of [0, 1]) for (const j of [0, 1]) {
    const from = [0, 0, 0];
    from[(a + 1) % 3] = i; from[(a + 2) % 3] = j;
    const to = from.slice(); to[a] = 1;
    EDGES.push([from, to]);
  }

  // Where each visible crystal stands on the screen, in rows and columns as large as they can be.
  function grid() {
    const shown = visible(), size = 1.8 * Math.max(...shown.map((k) => lab.scene.radii[k]));
    const aspect = Math.max(0.2, box.clientWidth / Math.max(1, box.clientHeight));
    let best = null;
    for (let columns = 1; columns <= shown.length; columns++) {
      const rows = Math.ceil(shown.length / columns), height = Math.max(rows, columns / aspect) * size;
      if (!best || height < best.height) best = { columns, rows, height };
    }
    const places = {};
    shown.forEach((k, n) => {
      const column = n % best.columns, row = Math.floor(n / best.columns);
      places[k] = [(column - (best.columns - 1) / 2) * size, ((best.rows - 1) / 2 - row) * size];
    });
    return { places, height: best.height };
  }

  // A shift on the screen is a shift in space that turns against the camera: each crystal turns about itself.
  function offsets() {
    const e = viewer.rotationGroup.matrix.elements, out = {};
    for (const k in lab.grid.places) {
      const [x, y] = lab.grid.places[k];
      out[k] = [e[0] * x + e[1] * y, e[4] * x + e[5] * y, e[8] * x + e[9] * y];
    }
    return out;
  }

  const GONE = 1e-4; // Å: what a place in a buffer is given that no atom needs

  function fill() {
    const where = offsets(), table = lab.elements;
    const add = (p, k) => [p[0] + where[k][0], p[1] + where[k][1], p[2] + where[k][2]];
    const n = capacity, position = new Float32Array(3 * n), color = new Float32Array(3 * n), radius = new Float32Array(n);
    for (let i = 0; i < n; i++) {
      const atom = base.atoms[Math.min(i, base.atoms.length - 1)];
      position.set(add(atom.p, atom.which), 3 * i);
      color.set(table[atom.number].slice(0, 3), 3 * i);
      radius[i] = i < base.atoms.length ? table[atom.number][3] : GONE;
    }
    const one = [], other = [], edge = [];
    for (const k of visible()) {
      const cell = lab.scene.cells[k], middle = cart(cell, 0.5, 0.5, 0.5);
      for (const [from, to] of EDGES) {
        for (const [end, list] of [[from, one], [to, other]]) {
          const p = cart(cell, ...end);
          list.push(...add([p[0] - middle[0], p[1] - middle[1], p[2] - middle[2]], k));
        }
        edge.push(...lab.edge);
      }
    }
    const f = (list) => new Float32Array(list);
    const data = {
      atoms: { position, color, radius },
      cells: { position1: f(one), position2: f(other), color: f(edge), color2: f(edge), radius: f(edge.map(() => 0.025).slice(0, edge.length / 3)) },
    };
    if (lab.scene.scores) {
      const tail = [], tip = [], ink = [], thick = [];
      for (const atom of base.atoms) {
        if (!atom.first) continue;
        const p = add(atom.p, atom.which), s = base.frame.s[atom.which].slice(3 * atom.atom, 3 * atom.atom + 3);
        const long = Math.hypot(...s), scale = long > 1.5 ? 1.5 / long : 1, size = table[atom.number][3];
        const start = long > 0.02 ? size / long : 0;
        tail.push(...p.map((x, k) => x + s[k] * start));
        tip.push(...p.map((x, k) => x + s[k] * (start + scale) + (long > 0.02 ? 0 : GONE)));
        ink.push(...lab.arrow);
        thick.push(long > 0.02 ? 0.07 : GONE);
      }
      data.scores = { position1: f(tail), position2: f(tip), color: f(ink), radius: f(thick) };
    }
    return data;
  }

  function build(data) {
    if (lab.comp) stage.removeComponent(lab.comp);
    const shape = new NGL.Shape("crystals", { disableImpostor: false });
    buffers = { atoms: new NGL.SphereBuffer(data.atoms), cells: new NGL.CylinderBuffer(data.cells) };
    if (data.scores) buffers.scores = new NGL.ArrowBuffer(data.scores, { aspectRatio: 2.2, radialSegments: 12 });
    for (const name in buffers) shape.addBuffer(buffers[name]);
    lab.comp = stage.addComponentFromObject(shape);
    lab.comp.addRepresentation("buffer");
  }

  function paint() {
    const data = fill();
    const now = JSON.stringify([capacity, visible(), lab.scene.scores && data.scores.radius.length]);
    if (now !== signature || !lab.comp) { build(data); signature = now; }
    else for (const name in data) buffers[name].setAttributes(data[name]);
    viewer.requestRender();
  }

  function words() {
    const numbers = [...new Set(base.atoms.map((a) => a.number))].sort((a, b) => lab.elements[a][5] - lab.elements[b][5]);
    const key = numbers.join();
    if (legend.dataset.key === key) return;
    legend.dataset.key = key;
    legend.replaceChildren(...numbers.map((number) => {
      const [r, g, b, , symbol] = lab.elements[number];
      const item = document.createElement("span"), dot = document.createElement("span");
      dot.style.cssText = `display:inline-block;width:11px;height:11px;border-radius:50%;margin-right:5px;vertical-align:-1px;background:rgb(${[r, g, b].map((x) => Math.round(255 * x))})`;
      item.append(dot, symbol);
      return item;
    }));
  }

  lab.camera = () => { // the whole grid fits, from the angle that pictures are taken from
    if (!lab.scene) return;
    lab.grid = grid();
    const distance = lab.grid.height / 2 / Math.tan((11 * Math.PI) / 180) + 0.3 * Math.max(...lab.scene.radii);
    const m = viewer.rotationGroup.matrix.clone(), r = lab.scene.rotation;
    // Columns of the matrix, scaled by the camera's distance, as NGL keeps orientations.
    m.fromArray([...r.slice(0, 3), 0, ...r.slice(3, 6), 0, ...r.slice(6, 9), 0, 0, 0, 0, 1].map((x, i) => (i < 11 && i % 4 < 3 ? x * distance : x)));
    stage.viewerControls.orient(m);
    viewer.rotationGroup.updateMatrix();
    signature = ""; // built anew, so that NGL sees the extent
  };

  lab.show = (index) => {
    const frame = lab.frames[index];
    if (!frame || !lab.scene || lab.gone) return;
    lab.index = index;
    const list = visible().flatMap((k) => atoms(frame, k));
    if (!list.length) return;
    if (list.length > capacity || capacity > 8 * list.length) capacity = Math.ceil(1.6 * list.length) + 8;
    base = { atoms: list, frame };
    paint();
    words();
    lab.shown = index;
    lab.count = (lab.count || 0) + 1;
  };

  lab.begin = (scene) => { // another run, choice or look; frames stay unless they come with it
    const old = lab.scene;
    lab.scene = { ...old, ...scene };
    const moved = !old || JSON.stringify([old.cells, old.choice]) !== JSON.stringify([lab.scene.cells, lab.scene.choice]);
    theme();
    if (moved) { lab.camera(); capacity = 0; }
    if (scene.frames) lab.frames = scene.frames;
    lab.show(Math.min(view.model.get("at"), lab.frames.length - 1));
  };
  lab.add = (start, frames) => { // frames from a number on, in place of those that there were
    lab.frames.length = Math.min(start, lab.frames.length);
    lab.frames.push(...frames);
    lab.show(Math.min(view.model.get("at"), lab.frames.length - 1));
  };

  const onFrame = () => lab.show(view.model.get("at"));
  view.model.on("change:at", onFrame);
  let turned = "";
  stage.viewerControls.signals.changed.add(() => {
    if (!base || Object.keys(lab.grid.places).length < 2) return;
    const now = viewer.rotationGroup.quaternion.toArray().map((x) => x.toFixed(5)).join();
    if (now !== turned) { turned = now; viewer.rotationGroup.updateMatrix(); paint(); }
  });
  let width = 0;
  const resize = new ResizeObserver(() => {
    if (box.clientWidth === width || !box.clientWidth) return;
    width = box.clientWidth;
    stage.handleResize();
    if (base) { lab.camera(); paint(); }
  });
  resize.observe(view.el);
  const watch = new MutationObserver(() => { if (base) { theme(); paint(); } });
  watch.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name"] });

  lab.dispose = () => {
    if (lab.gone) return;
    lab.gone = true;
    resize.disconnect(); watch.disconnect();
    view.model.off("change:at", onFrame);
    viewer.render = viewer.animate = () => {}; // what is still asked for would draw without a context
    viewer.renderer.forceContextLoss();
    stage.dispose();
  };
  const remove = view.remove.bind(view);
  view.remove = () => { lab.dispose(); return remove(); };
  if (!view.el.isConnected) lab.dispose(); // removed while this script was on its way
})(this);
