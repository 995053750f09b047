// A figure is drawn while the page is still being read, before the columns beside it are there.
window.addEventListener("load", () => {
  for (const figure of document.querySelectorAll(".plotly-graph-div")) Plotly.Plots.resize(figure);
});
