// plotly's widget, whose views show the figure as it is. Before this code stands `plotly`, which imports plotly's module.
//
// plotly changes a figure by messages, and what it draws a new view from is the figure as it was when Python made it. So
// a view lacks every change that was sent before it listened. Each view therefore asks Python whether it has missed any,
// and is drawn again from the figure's state if it has.
export default async () => {
  const widget = (await plotly()).default(); // of one figure
  let listeners = null; // of the view that is being made
  return {
    initialize({ model }) {
      // plotly's views never stop listening, so we keep what each of them has registered.
      const on = (event, act) => { listeners?.push([event, act]); model.on(event, act); };
      const heard = { get: (n) => model.get(n), set: (n, v) => model.set(n, v), save_changes: () => model.save_changes(), on };
      widget.initialize({ model: heard });
    },
    render({ model, el }) {
      const view = Math.random().toString(36).slice(2);
      let registered = [], end = null;
      const draw = () => {
        listeners = registered = [];
        end = widget.render({ model, el });
        listeners = null;
      };
      const clear = () => {
        for (const [event, act] of registered) model.off(event, act);
        for (const canvas of el.querySelectorAll("canvas.gl-canvas"))
          (canvas.getContext("webgl") || canvas.getContext("webgl2"))?.getExtension("WEBGL_lose_context")?.loseContext();
        end();
      };
      const answered = (content) => {
        if (content?.view !== view) return;
        clear();
        draw();
      };
      draw();
      model.on("msg:custom", answered);
      model.send({ view, edits: model.get("edits_in_state") });
      return () => {
        model.off("msg:custom", answered);
        clear();
      };
    },
  };
};
