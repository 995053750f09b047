// Tells Python whether the theme of the page is dark, fits a plotly figure to its place, and ends it without errors. It also
// releases the figure's WebGL contexts, which plotly leaves to the browser's garbage collector.
function render({ model, el }) {
  el.style.display = "none";
  const home = () => el.closest(".cdvae-figure");
  let gone = false;
  // plotly answers each change after drawing it; by then the figure may be closed, and the answer has no receiver.
  model.widget_manager.get_model(model.get("figure").replace("IPY_MODEL_", "")).then((figure) => {
    if (figure.answers) return;
    figure.answers = figure.sync;
    figure.sync = (...rest) => (figure.comm ? figure.answers(...rest) : undefined);
  });
  function tell() {
    if (gone) return;
    const name = document.body.dataset.jpThemeLight;
    const ink = getComputedStyle(el.parentElement || document.body).color.match(/[\d.]+/g).map(Number);
    const dark = name ? name === "false" : ink[0] + ink[1] + ink[2] > 384; // light text, so the background is dark
    if (dark !== model.get("dark")) {
      model.set("dark", dark);
      model.save_changes();
    }
  }
  const watch = new MutationObserver(() => [0, 400].forEach((ms) => setTimeout(tell, ms))); // styles load late
  watch.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name"] });

  // plotly measures its place once, before a notebook has laid out the surrounding page.
  let width = 0, plot = null;
  const fit = new ResizeObserver(() => {
    if (plot && plot.clientWidth && plot.clientWidth !== width) {
      width = plot.clientWidth;
      window.dispatchEvent(new Event("resize"));
    }
  });
  let find = requestAnimationFrame(function attach() {
    plot = home()?.querySelector(".js-plotly-plot");
    if (plot) { fit.observe(plot.parentElement); tell(); } else find = requestAnimationFrame(attach);
  });
  return () => {
    gone = true;
    cancelAnimationFrame(find);
    watch.disconnect(); fit.disconnect();
    for (const canvas of plot?.querySelectorAll("canvas.gl-canvas") || [])
      (canvas.getContext("webgl") || canvas.getContext("webgl2"))?.getExtension("WEBGL_lose_context")?.loseContext();
  };
}
export default heard({ render });
