// One frame back and one on, beside the play button.
async function render({ model, el }) {
  const other = (name) => model.widget_manager.get_model(model.get(name).replace("IPY_MODEL_", ""));
  const [slider, play] = await Promise.all([other("slider"), other("play")]);
  el.style.cssText = "display:flex;margin:0";
  for (const [by, text, name] of [[-1, "◂", "one frame back (left arrow; with shift ten)"], [1, "▸", "one frame on (right arrow; with shift ten)"]]) {
    const button = document.createElement("button");
    button.className = "jupyter-button widget-button";
    button.style.cssText = "width:34px;padding:0";
    button.textContent = text;
    button.title = name;
    button.setAttribute("aria-label", name);
    button.addEventListener("click", () => {
      play.set("playing", false); play.save_changes();
      slider.set("value", Math.max(slider.get("min"), Math.min(slider.get("max"), slider.get("value") + by)));
      slider.save_changes();
    });
    el.appendChild(button);
  }
}
export default heard({ render });
