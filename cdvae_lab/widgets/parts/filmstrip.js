// Pictures side by side, each a button. `at` is the one that is marked; it is linked in the browser.
function render({ model, el }) {
  const strip = document.createElement("div");
  strip.style.cssText = "display:flex;gap:4px;overflow-x:auto;padding:3px;color:var(--jp-ui-font-color1,inherit)";
  strip.setAttribute("role", "listbox");
  strip.setAttribute("aria-label", "crystals");
  el.appendChild(strip);

  function draw() {
    strip.replaceChildren(...model.get("items").map((item, i) => {
      const one = document.createElement("button");
      one.type = "button";
      one.style.cssText =
        "flex:1 0 96px;max-width:170px;padding:2px;border:2px solid transparent;border-radius:4px;background:none;" +
        "color:inherit;cursor:pointer;font:12px var(--jp-ui-font-family,sans-serif);line-height:1.35";
      one.setAttribute("role", "option");
      const picture = document.createElement("img");
      picture.src = item.image; picture.alt = ""; picture.style.cssText = "width:100%;display:block";
      const head = document.createElement("b");
      head.innerHTML = item.title;
      one.append(picture, head, ...item.lines.map((text) => {
        const line = document.createElement("div");
        line.textContent = text;
        if (item.warn) line.style.color = "var(--jp-error-color1,#c62828)";
        return line;
      }));
      one.addEventListener("click", () => go(i));
      return one;
    }));
    mark();
  }
  function mark() {
    const at = model.get("at");
    [...strip.children].forEach((one, i) => {
      one.style.borderColor = i === at ? "var(--jp-brand-color1,#1976d2)" : "transparent";
      one.setAttribute("aria-selected", i === at);
      if (i === at) strip.scrollLeft = one.offsetLeft + one.offsetWidth / 2 - strip.clientWidth / 2 - strip.offsetLeft;
      one.tabIndex = i === Math.max(at, 0) ? 0 : -1;
    });
  }
  function go(i) {
    model.set("at", Math.max(0, Math.min(model.get("items").length - 1, i)));
    model.save_changes();
  }
  function key(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    go(model.get("at") + step);
    strip.children[model.get("at")]?.focus();
    event.preventDefault(); event.stopPropagation();
  }
  strip.addEventListener("keydown", key);
  strip.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab's own meanings of these keys
  model.on("change:items", draw);
  model.on("change:at", mark);
  draw();
  return () => { model.off("change:items", draw); model.off("change:at", mark); };
}
export default heard({ render });
