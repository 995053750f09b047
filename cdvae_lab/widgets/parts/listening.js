// Lets a widget hear messages that anywidget would drop. The code of a widget follows, and exports `heard({...})`.
//
// anywidget gives a widget two seconds to start, and drops all messages to one that was later, for good, although it
// shows it in the end. A busy page takes longer: the widget is then drawn once, and no change reaches it. Here a late
// widget takes its messages without anywidget, and asks the kernel for its state, which holds whatever was dropped.
function heard(widget) {
  return async () => {
    let whole = null; // settles when nothing is missing from the state; true if it had to be asked for
    return {
      initialize(context) {
        whole = completed(context.model);
        return widget.initialize?.({ ...context, whole });
      },
      async render(context) {
        await whole;
        return widget.render(context);
      },
    };
  };
}

async function completed(model) {
  const real = behind(model);
  if (!real.comm) return false; // a page without a kernel
  // anywidget answers any message, also one that says nothing, when the widget has started, and with an error if late.
  const late = await real._handle_comm_msg({ content: { data: { method: "" } } }).then(() => false, () => true);
  if (!late) return false;
  const receive = Object.getPrototypeOf(Object.getPrototypeOf(real))._handle_comm_msg; // of ipywidgets
  return new Promise((settle) => {
    real.comm.on_msg(async (message) => {
      await receive.call(real, message);
      if ("_esm" in (message.content.data.state ?? {})) settle(true); // the whole state
    });
    real.comm.send({ method: "request_state" }, real.callbacks());
  });
}

// The model of ipywidgets behind the part of it that anywidget hands out.
function behind(model) {
  let found = null;
  const take = (real) => { found = real; };
  model.on("change:_started", take);
  model.set("_started", true); // no trait: the kernel ignores it
  model.off("change:_started", take);
  return found;
}

