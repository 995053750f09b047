// plotly's widget with three faults mended. Before this code stands `plotly`, which imports plotly's module.
//
// - anywidget gives a widget two seconds to initialize and then drops all its messages. plotly's five megabytes take
//   longer on a busy machine, so they load behind this small widget, which keeps the edits that arrive meanwhile.
// - A view made by plotly listens for ever, also after it is removed, and then fails. Here its listeners go with it.
// - anywidget may draw a view when part of a figure's state has not arrived. `plot.py` sends the whole state at first.
const EDITS = ["addTraces", "deleteTraces", "moveTraces", "restyle", "relayout", "update", "animate",
  "removeLayoutProps", "removeTraceProps"].map((name) => `_py2js_${name}`);

export default heard(figure());

function figure() {
  let widget = null; // plotly's, of this figure
  let loaded = null;
  let forget = null;
  let listening = []; // what plotly is registering at the moment, as [event, act]
  let replayed = {}; // the edit that plotly is to see instead of the newest
  return {
    initialize({ model, whole }) {
      const early = [];
      const keep = EDITS.map((name) => [`change:${name}`, () => early.push([name, model.get(name)])]);
      keep.forEach(([event, act]) => model.on(event, act));
      const seen = {
        get: (name) => (name in replayed ? replayed[name] : model.get(name)),
        set: (name, value) => model.set(name, value),
        save_changes: () => model.save_changes(),
        on: (event, act) => { listening.push([event, act]); model.on(event, act); },
      };
      forget = (event, act) => model.off(event, act); // only the model that a listener was given to can remove it
      whole.then((asked) => { if (asked) early.length = 0; }); // the state that was asked for has these edits
      loaded = plotly().then((module) => {
        widget = module.default();
        widget.initialize({ model: seen });
        keep.forEach(([event, act]) => model.off(event, act));
        for (const [name, value] of early) {
          replayed = { [name]: value };
          for (const [event, act] of listening) if (event === `change:${name}`) act();
        }
        replayed = {};
      });
    },
    async render({ model, el }) {
      await loaded;
      listening = [];
      const end = widget.render({ model, el });
      const listeners = listening;
      return () => {
        listeners.forEach(([event, act]) => forget(event, act));
        end();
      };
    },
  };
}
