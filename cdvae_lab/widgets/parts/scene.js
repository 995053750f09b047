// Run by nglview's view (`this` is `view`, `NGL` and `CELL` are in reach). Draws crystals from buffers that stay where they
// are: a frame only fills in other positions, colors and radii, so that species and cells are right in every frame.
// All frames live here, so that scrubbing needs no kernel.
((view) => {
  if (view.lab) return;
  const lab = { scene: null, frames: [], index: 0, comp: null, shown: -1, elements: {} };
  view.lab = lab;
  const stage = view.stage, viewer = stage.viewer, box = viewer.container, { cart, EDGES } = CELL;
  let base = null, room = {}, buffers = {}, signature = "";

  box.style.width = "100%";
  const legend = document.createElement("div"), hint = document.createElement("div"), style = document.createElement("style");
  legend.className = "cdvae-legend";
  legend.style.cssText =
    "position:absolute;left:10px;bottom:8px;font:13px var(--jp-ui-font-family,sans-serif);pointer-events:none;" +
    "display:flex;flex-wrap:wrap;gap:3px 12px";
  hint.style.cssText =
    "position:absolute;display:none;pointer-events:none;padding:1px 7px;border-radius:5px;z-index:2;" +
    "font:13px var(--jp-ui-font-family,sans-serif);background:var(--jp-layout-color2,#eee);color:var(--jp-ui-font-color1,#111)";
  // nglview's own: a button for full screen, and an empty box for what is pointed at.
  style.textContent =
    ".cdvae-stage button, .cdvae-stage .ui-resizable > div:empty:not(.ui-resizable-handle) { display: none !important; }";
  view.el.classList.add("cdvae-stage");
  box.append(legend, hint, style);

  // Which frame: the slider's value where there is one, looked at here, without a message for each change.
  let slider = null;
  const at = () => (slider ? slider.get("value") : view.model.get("at"));
  let asked = 0; // once for each picture of the screen, however often the slider moves
  const onFrame = () => { asked = asked || requestAnimationFrame(() => { asked = 0; lab.show(at()); }); };
  view.model.on("change:at", onFrame);
  const shared = view.model.get("slider");
  if (shared) view.model.widget_manager.get_model(shared.replace("IPY_MODEL_", "")).then((model) => {
    if (lab.gone) return;
    slider = model;
    slider.on("change:value", onFrame);
    onFrame();
  });

  function theme() {
    const style = getComputedStyle(view.el);
    const name = document.body.dataset.jpThemeLight;
    const dark = name ? name === "false" : false;
    const background = style.getPropertyValue("--jp-layout-color0").trim() || (dark ? "#111" : "#fff");
    legend.style.color = dark ? "#e5e9f0" : "#1e293b";
    lab.edge = dark ? [0.63, 0.68, 0.77] : [0.28, 0.33, 0.41];
    lab.arrow = dark ? [1.0, 0.85, 0.35] : [0.75, 0.25, 0.05];
    // No drawing over and over of what stands still: its edges are smooth already.
    stage.setParameters({ sampleLevel: -1, backgroundColor: background, clipDist: 0, clipNear: 0, clipFar: 100, fogNear: 100, fogFar: 100,
      cameraType: "perspective", cameraFov: 22, tooltip: false, hoverTimeout: -1, lightIntensity: 1.05, ambientIntensity: 0.35 });
  }

  const visible = () => (lab.scene.choice === null ? lab.scene.cells.map((_, i) => i) : [lab.scene.choice]);

  const SLOPE = Math.tan((11 * Math.PI) / 180); // half of what the camera sees, at a distance of 1
  const MARGIN = 1.15; // Å around a cell: more than the largest sphere, which the perspective makes larger still

  const LEGEND = 28; // pixels at the bottom that several crystals leave to the legend

  // Where each visible crystal stands on the screen, from left to right and from top to bottom, in rows and columns that
  // are as large as they can be; and how far away the camera must be to see them all, as they are seen at first.
  function grid() {
    const shown = visible(), r = lab.scene.rotation, aspect = Math.max(0.2, box.clientWidth / Math.max(1, box.clientHeight));
    const seen = shown.map((k) => [0, 1, 2, 3, 4, 5, 6, 7].map((c) => {
      const p = cart(lab.scene.cells[k], (c & 1) - 0.5, ((c >> 1) & 1) - 0.5, (c >> 2) - 0.5);
      return [0, 1, 2].map((i) => r[i] * p[0] + r[3 + i] * p[1] + r[6 + i] * p[2]); // right, up, towards the viewer
    }));
    const [width, height] = [0, 1].map((i) => 2 * (Math.max(...seen.flat().map((p) => Math.abs(p[i]))) + MARGIN));
    const free = shown.length > 1 ? Math.max(0.5, 1 - (2 * LEGEND) / Math.max(1, box.clientHeight)) : 1;
    let best = null;
    for (let columns = 1; columns <= shown.length; columns++) {
      const rows = Math.ceil(shown.length / columns);
      const places = shown.map((_, n) =>
        [((n % columns) - (columns - 1) / 2) * width, ((rows - 1) / 2 - Math.floor(n / columns)) * height]);
      const distance = Math.max(...seen.flatMap((points, n) => points.map(([x, y, z]) =>
        z + Math.max((Math.abs(x + places[n][0]) + MARGIN) / aspect, (Math.abs(y + places[n][1]) + MARGIN) / free) / SLOPE)));
      if (!best || distance < best.distance) best = { distance, places };
    }
    return { places: Object.fromEntries(shown.map((k, n) => [k, best.places[n]])), distance: best.distance };
  }

  // A shift on the screen is a shift in space that turns against the camera: each crystal turns about itself. NGL's camera
  // looks along its z, so that what it has at the right is where its x is negative.
  function offsets() {
    const e = viewer.rotationGroup.matrix.elements, out = {};
    for (const k in lab.grid.places) {
      const x = -lab.grid.places[k][0], y = lab.grid.places[k][1];
      out[k] = [e[0] * x + e[1] * y, e[4] * x + e[5] * y, e[8] * x + e[9] * y];
    }
    return out;
  }

  const GONE = 1e-4; // Å: what a place in a buffer is given that nothing needs

  // Buffers of a fixed size, with some room for what the next frames have more of.
  function fixed(name, items, widths) {
    const n = items.length;
    if (!(name in room) || n > room[name] || room[name] > 8 * n + 64) room[name] = Math.ceil(1.6 * n) + 8;
    const out = {};
    for (const key in widths) out[key] = new Float32Array(widths[key] * room[name]);
    for (let i = 0; i < room[name]; i++) {
      const item = items[Math.min(i, n - 1)];
      for (const key in widths) {
        if (widths[key] === 1) out[key][i] = i < n ? item[key] : GONE;
        else if (item) out[key].set(item[key], widths[key] * i);
      }
    }
    return out;
  }

  const STICK = { position1: 3, position2: 3, color: 3, color2: 3, radius: 1 };

  function fill() {
    const where = offsets(), table = lab.elements, color = (number) => table[number].slice(0, 3);
    const add = (p, k) => [p[0] + where[k][0], p[1] + where[k][1], p[2] + where[k][2]];
    for (const atom of base.atoms) atom.at = add(atom.p, atom.which);
    const edges = [];
    for (const k of visible()) {
      const cell = lab.scene.cells[k], middle = cart(cell, 0.5, 0.5, 0.5);
      for (const ends of EDGES) {
        const [position1, position2] = ends.map((end) => add(cart(cell, ...end).map((x, j) => x - middle[j]), k));
        edges.push({ position1, position2, color: lab.edge, color2: lab.edge, radius: 0.025 });
      }
    }
    const spheres = base.atoms.map((a) => ({ position: a.at, color: color(a.number), radius: table[a.number][3] }));
    const sticks = base.bonds.map(([a, b]) => (
      { position1: a.at, position2: b.at, color: color(a.number), color2: color(b.number), radius: 0.09 }));
    const data = {
      atoms: fixed("atoms", spheres, { position: 3, color: 3, radius: 1 }),
      cells: fixed("cells", edges, STICK),
      bonds: fixed("bonds", sticks, STICK),
    };
    if (lab.scene.scores) {
      const arrows = base.atoms.filter((a) => a.first).map((a) => {
        const s = [0, 1, 2].map((k) => base.frame.s[3 * a.site + k] / 1000), size = table[a.number][3];
        const long = Math.hypot(...s), scale = long > 1.5 ? 1.5 / long : 1, seen = long > 0.02, start = seen ? size / long : 0;
        return { position1: a.at.map((x, k) => x + s[k] * start), radius: seen ? 0.07 : GONE, color: lab.arrow,
          position2: a.at.map((x, k) => x + s[k] * (start + scale) + (seen ? 0 : GONE)) };
      });
      data.scores = fixed("scores", arrows, { position1: 3, position2: 3, color: 3, radius: 1 });
    }
    return data;
  }

  function build(data) {
    if (lab.comp) stage.removeComponent(lab.comp);
    const shape = new NGL.Shape("crystals", { disableImpostor: false });
    buffers = {};
    for (const name in data) {
      buffers[name] = name === "atoms" ? new NGL.SphereBuffer(data[name])
        : name === "scores" ? new NGL.ArrowBuffer(data[name], { aspectRatio: 2.2, radialSegments: 12 })
        : new NGL.CylinderBuffer(data[name]);
      shape.addBuffer(buffers[name]);
    }
    lab.comp = stage.addComponentFromObject(shape);
    lab.comp.addRepresentation("buffer");
  }

  function paint() {
    const data = fill(), now = JSON.stringify([room, Object.keys(data), visible()]);
    if (now !== signature || !lab.comp) { build(data); signature = now; }
    else for (const name in data) buffers[name].setAttributes(data[name]);
    viewer.requestRender();
  }

  function words() {
    const numbers = CELL.elements(base.atoms, lab.elements), key = numbers.join();
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
    const { distance } = lab.grid, m = viewer.rotationGroup.matrix.clone();
    const r = lab.scene.rotation.map((x, i) => (i % 3 === 1 ? x : -x)); // to the left, up, and away from the viewer
    // Columns of the matrix, scaled by the camera's distance, as NGL keeps orientations.
    m.fromArray([...r.slice(0, 3), 0, ...r.slice(3, 6), 0, ...r.slice(6, 9), 0, 0, 0, 0, 1].map((x, i) => (i < 11 && i % 4 < 3 ? x * distance : x)));
    stage.viewerControls.orient(m);
    viewer.rotationGroup.updateMatrix();
    signature = ""; // built again, so that NGL knows the extent
  };

  lab.show = (index) => {
    const frame = lab.frames[index];
    if (!frame || !lab.scene || lab.gone) return;
    lab.index = index;
    const crystals = visible().map((k) => CELL.atoms(frame, k, lab.scene.cells[k]));
    const list = crystals.flat();
    if (!list.length) return;
    base = { atoms: list, frame, bonds: crystals.flatMap((atoms) => CELL.bonds(atoms, lab.elements)) };
    paint();
    words();
    hint.style.display = "none";
    lab.shown = index;
    view.el.dataset.frame = index; // for programs that read the page, such as the tests
  };

  lab.begin = (scene, frames) => { // another run, choice or look; frames stay unless they come with it
    const old = lab.scene;
    lab.scene = { ...old, ...scene };
    const moved = !old || JSON.stringify([old.cells, old.choice]) !== JSON.stringify([lab.scene.cells, lab.scene.choice]);
    theme();
    if (moved) { lab.camera(); room = {}; }
    if (frames) lab.frames = CELL.unpack(frames);
    lab.show(Math.min(at(), lab.frames.length - 1));
  };
  // Frames from a number on, in place of those that there were. `seen` is the frame that Python believes to be marked: while
  // it is, the newest is shown, and the mark may follow more rarely; null: the marked one is shown.
  lab.add = (start, frames, seen) => {
    lab.frames.length = Math.min(start, lab.frames.length);
    lab.frames.push(...CELL.unpack(frames));
    const last = lab.frames.length - 1;
    lab.show(seen !== null && at() === seen ? last : Math.min(at(), last));
  };

  let turned = "";
  stage.viewerControls.signals.changed.add(() => {
    hint.style.display = "none";
    if (!base || Object.keys(lab.grid.places).length < 2) return;
    const now = viewer.rotationGroup.quaternion.toArray().map((x) => x.toFixed(5)).join();
    if (now !== turned) { turned = now; viewer.rotationGroup.updateMatrix(); paint(); }
  });

  // The symbol of the atom that is pointed at; worked out here, since NGL would draw everything once more to find it.
  box.addEventListener("pointermove", (event) => {
    hint.style.display = "none";
    if (!base || event.buttons) return;
    const area = box.getBoundingClientRect(), x = event.clientX - area.left, y = event.clientY - area.top;
    const camera = viewer.camera, world = viewer.translationGroup.matrixWorld, half = area.height / 2;
    let found = null;
    for (const atom of base.atoms) {
      const p = camera.position.clone().set(...atom.at).applyMatrix4(world), depth = camera.position.distanceTo(p);
      const radius = (lab.elements[atom.number][3] * half) / (depth * Math.tan((camera.fov * Math.PI) / 360));
      p.project(camera);
      const far = Math.hypot((p.x + 1) * area.width / 2 - x, (1 - p.y) * half - y);
      if (far < radius && (!found || depth < found.depth)) found = { atom, depth };
    }
    if (!found) return;
    hint.textContent = lab.elements[found.atom.number][4];
    hint.style.cssText += `;display:block;left:${x + 12}px;top:${y + 6}px`;
  });
  box.addEventListener("pointerleave", () => { hint.style.display = "none"; });

  let width = 0;
  const resize = new ResizeObserver(() => {
    if (box.clientWidth === width || !box.clientWidth) return;
    width = box.clientWidth;
    stage.handleResize();
    if (base) { lab.camera(); paint(); }
  });
  resize.observe(view.el);
  const watch = new MutationObserver(() => { theme(); if (base) paint(); });
  watch.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name"] });

  lab.dispose = () => {
    if (lab.gone) return;
    lab.gone = true;
    resize.disconnect(); watch.disconnect();
    view.model.off("change:at", onFrame);
    if (slider) slider.off("change:value", onFrame);
    viewer.render = viewer.animate = () => {}; // what is still asked for would draw without a context
    viewer.renderer.forceContextLoss();
    stage.dispose();
  };
  const remove = view.remove.bind(view);
  view.remove = () => { lab.dispose(); return remove(); };
  if (view.el.isConnected) theme(); // an empty stage is of the page's color, too
  else lab.dispose(); // removed while this script was on its way
})(this);
