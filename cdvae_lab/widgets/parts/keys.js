// Tells the kernel which keys were pressed in the panel that this stands in.
const KEYS = { " ": "space", ArrowLeft: "left", ArrowRight: "right", Home: "home", End: "end" };

function render({ model, el }) {
  el.style.display = "none";
  // Wherever in the panel the focus is; not while something is typed, nor where a key has a meaning of its own.
  let home = null;
  function key(event) {
    const at = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
    if (/^(INPUT|TEXTAREA|SELECT)$/.test(at.tagName) || at.closest("[role=slider], .noUi-handle")) return;
    if (event.key === " " && at.tagName === "BUTTON") return;
    model.send({ key: KEYS[event.key], far: event.shiftKey });
    event.preventDefault(); event.stopPropagation();
  }
  let waiting = requestAnimationFrame(function attach() {
    home = el.closest(".cdvae-panel");
    if (!home) { if (el.isConnected) return; waiting = requestAnimationFrame(attach); return; }
    home.tabIndex = 0;
    home.style.outlineOffset = "2px";
    home.addEventListener("keydown", key);
    home.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab's own meanings of these keys
  });
  return () => {
    cancelAnimationFrame(waiting);
    if (home) home.removeEventListener("keydown", key);
  };
}
export default heard({ render });
