// Small pictures in a row, to click or to walk through with the arrow keys. `at` is the one that is looked at.
function render({ model, el }) {
  const strip = document.createElement("div");
  strip.style.cssText = "display:flex;gap:4px;overflow-x:auto;padding:3px;min-height:20px";
  strip.setAttribute("role", "listbox");
  el.appendChild(strip);
  const ACCENT = "var(--jp-brand-color1,#1976d2)";

  function mark(follow) {
    [...strip.children].forEach((one, i) => {
      const chosen = i === model.get("at");
      one.style.borderColor = chosen ? ACCENT : "transparent";
      one.setAttribute("aria-selected", chosen);
      if (chosen && follow) strip.scrollLeft = one.offsetLeft + one.offsetWidth / 2 - strip.clientWidth / 2 - strip.offsetLeft;
    });
  }
  function draw() {
    const pictures = model.get("pictures");
    strip.replaceChildren(...pictures.map((picture, i) => {
      const one = document.createElement("button"), image = document.createElement("img");
      one.style.cssText = "flex:none;border:2px solid transparent;border-radius:4px;background:none;padding:2px;cursor:pointer;" +
        "color:var(--jp-ui-font-color1,inherit);font:12px var(--jp-ui-font-family,sans-serif);text-align:center";
      one.setAttribute("role", "option");
      image.src = picture.image; image.alt = ""; image.width = image.height = 96; image.style.display = "block"; image.style.margin = "auto";
      one.append(image, ...picture.lines.map((text) => { const line = document.createElement("div"); line.textContent = text; return line; }));
      one.addEventListener("click", () => { model.set("at", i); model.save_changes(); });
      return one;
    }));
    mark(true);
  }
  const moved = () => mark(true);
  model.on("change:pictures", draw);
  model.on("change:at", moved);
  draw();
  return () => { model.off("change:pictures", draw); model.off("change:at", moved); };
}
export default { render };
