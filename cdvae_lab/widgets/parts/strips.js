// The strips under a film, drawn on one canvas, and the keys. Slider and play button are looked at in the browser, so that all of
// it works while the kernel is busy.
async function render({ model, el }) {
  const other = (name) => model.widget_manager.get_model(model.get(name).replace("IPY_MODEL_", ""));
  const [slider, play] = await Promise.all([other("slider"), other("play")]);
  const canvas = document.createElement("canvas");
  canvas.style.cssText = "width:100%;height:150px;color:var(--jp-ui-font-color1,inherit);cursor:crosshair;display:block";
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "noise level, closest distance, changed species and validity of every frame");
  el.appendChild(canvas);
  const LEFT = 128, RIGHT = 86, GAP = 6;

  let strips = [], text = "", x = () => 0, count = 0;
  const still = document.createElement("canvas"); // all but the mark, drawn when there is something new

  function draw() {
    const width = canvas.clientWidth, height = canvas.clientHeight, scale = window.devicePixelRatio || 1;
    if (!width) return;
    canvas.width = still.width = width * scale; canvas.height = still.height = height * scale;
    const pen = still.getContext("2d");
    pen.scale(scale, scale);
    const ink = getComputedStyle(canvas).color.match(/[\d.]+/g).map(Number);
    const dark = ink[0] + ink[1] + ink[2] > 384; // light text, so the background is dark
    const faint = dark ? "#3b4252" : "#e2e8f0";
    const data = model.get("data"), n = (count = (data.sigma || []).length);
    const total = Math.max(data.length || 1, n);
    text = dark ? "#e5e9f0" : "#1e293b";
    x = (i) => LEFT + ((i + 0.5) / total) * (width - LEFT - RIGHT);
    const logs = (data.sigma || []).map(Math.log10), lowest = Math.log10(data.lowest || 0.01), highest = Math.log10(data.highest || 10);
    const distances = data.distance || [], far = Math.max(3, ...distances.filter(Number.isFinite));
    const most = Math.max(1, ...(data.changed || []));
    const digits = (v) => (v >= 1 ? v.toFixed(1) : v.toPrecision(2));
    strips = [
      { name: "noise level (log)", color: dark ? "#7dd3fc" : "#0369a1", value: (i) => (logs[i] - lowest) / (highest - lowest || 1), say: (i) => digits(data.sigma[i]) + " Å" },
      { name: "closest distance", color: dark ? "#fcd34d" : "#b45309", value: (i) => (distances[i] ?? 0) / far, say: (i) => (distances[i] === null ? "" : distances[i].toFixed(2) + " Å") },
      { name: "elements changed", color: dark ? "#f0abfc" : "#a21caf", bars: true, value: (i) => data.changed[i] / most, say: (i) => `${data.changed[i]} atoms` },
      { name: "valid crystals", color: dark ? "#86efac" : "#15803d", bars: true, value: (i) => data.valid[i], say: (i) => Math.round(100 * data.valid[i]) + " %" },
    ];
    const high = (height - GAP * (strips.length + 1)) / strips.length;
    pen.font = "12px sans-serif"; pen.textBaseline = "middle";
    strips.forEach((strip, row) => {
      const top = GAP + row * (high + GAP);
      strip.middle = top + high / 2;
      pen.fillStyle = faint; pen.globalAlpha = 0.45;
      pen.fillRect(LEFT, top, width - LEFT - RIGHT, high);
      pen.globalAlpha = 1;
      pen.fillStyle = text; pen.textAlign = "right";
      pen.fillText(strip.name, LEFT - 8, strip.middle);
      if (!n) return;
      pen.fillStyle = pen.strokeStyle = strip.color; pen.lineWidth = 1.6;
      const y = (i) => top + high - 1 - Math.max(0, Math.min(1, strip.value(i))) * (high - 3);
      if (strip.bars) {
        const wide = Math.max(1, (width - LEFT - RIGHT) / total - 0.3);
        for (let i = 0; i < n; i++) if (strip.value(i) > 0) pen.fillRect(x(i) - wide / 2, y(i), wide, top + high - y(i));
      } else {
        pen.beginPath();
        for (let i = 0; i < n; i++) pen.lineTo(x(i), y(i));
        pen.stroke();
      }
    });
    mark();
  }

  function mark() {
    if (!canvas.clientWidth || !still.width) return;
    const pen = canvas.getContext("2d"), scale = canvas.width / canvas.clientWidth, at = Math.min(slider.get("value"), count - 1);
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(still, 0, 0);
    if (!count) return;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.font = "12px sans-serif"; pen.textBaseline = "middle"; pen.fillStyle = text; pen.textAlign = "left";
    for (const strip of strips) pen.fillText(strip.say(at), canvas.clientWidth - RIGHT + 8, strip.middle);
    pen.strokeStyle = text; pen.lineWidth = 1.5; pen.globalAlpha = 0.8;
    pen.beginPath(); pen.moveTo(x(at), 1); pen.lineTo(x(at), canvas.clientHeight - 1); pen.stroke();
    pen.globalAlpha = 1;
  }
  let asked = 0; // once for each picture of the screen, however often the slider moves
  const move = () => { asked = asked || requestAnimationFrame(() => { asked = 0; mark(); }); };

  const last = () => Math.max(0, ((model.get("data").sigma || []).length || 1) - 1);
  function go(i) {
    slider.set("value", Math.max(0, Math.min(last(), i)));
    slider.save_changes();
  }
  function point(event) {
    if (!event.buttons) return;
    const box = canvas.getBoundingClientRect(), total = Math.max(model.get("data").length || 1, last() + 1);
    go(Math.floor(((event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT)) * total));
  }
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); point(event); });
  canvas.addEventListener("pointermove", point);

  // Keys for the whole player, wherever in it the focus is; not while something is typed or a button is chosen.
  let home = null;
  function key(event) {
    if (/^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " " && event.target.tagName !== "BUTTON") {
      play.set("playing", !play.get("playing")); play.save_changes();
    } else if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
      go(slider.get("value") + (event.key === "ArrowRight" ? 1 : -1) * (event.shiftKey ? 10 : 1));
    } else if (event.key === "Home") go(0);
    else if (event.key === "End") go(last());
    else return;
    event.preventDefault(); event.stopPropagation();
  }
  const find = requestAnimationFrame(function attach() {
    home = el.closest(".cdvae-player");
    if (!home) { if (el.isConnected) return; requestAnimationFrame(attach); return; }
    home.tabIndex = 0;
    home.style.outlineOffset = "2px";
    home.addEventListener("keydown", key, true); // before the slider, which would step once more
    home.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab's own meanings of these keys
  });
  const size = new ResizeObserver(draw);
  size.observe(canvas);
  const watch = new MutationObserver(() => [0, 300, 900].forEach((ms) => setTimeout(draw, ms))); // styles load late
  watch.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name"] });
  model.on("change:data", draw);
  slider.on("change:value", move);
  draw();
  return () => {
    cancelAnimationFrame(find);
    size.disconnect(); watch.disconnect();
    model.off("change:data", draw); slider.off("change:value", move);
    if (home) home.removeEventListener("keydown", key, true);
  };
}
export default heard({ render });
