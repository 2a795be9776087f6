// Once a second: ask for what changed since the last time, and hand it to the page.
// The same bytes go to every viewer; what did not change is not sent and not drawn again.
(function () {
  let seen = "", busy = false, lastAnswer = null, waited = 0;
  const TICK = 500, PATIENCE = 3000; // ms; without an answer for so long, the page says so

  function heard() {
    lastAnswer = Date.now();
    waited = 0;
  }

  // Counted in ticks, from the first question on: a page that draws, loads or sleeps for seconds
  // has not waited meanwhile.
  function complain() {
    const lost = document.getElementById("lost");
    if (!lost || lastAnswer === null) return;
    waited += TICK;
    lost.classList.toggle("on", waited > PATIENCE);
    if (waited > PATIENCE) {
      lost.textContent = "The dashboard's server has not answered for " +
        Math.round((Date.now() - lastAnswer) / 1000) + " s: what you see is old.";
      document.title = "✖ no connection · freerun";
    }
  }

  // dcc.Graph writes a zoom back into its figure, which makes Plotly take it for the server's
  // wish and forget it with the next figure (uirevision does not help then): carry it over.
  function keepZoom(id, figure) {
    const plot = document.querySelector("#" + id + " .js-plotly-plot");
    if (!plot || !plot.layout || !figure.layout) return figure;
    if (plot.layout.dragmode) figure.layout.dragmode = plot.layout.dragmode;
    for (const [name, axis] of Object.entries(figure.layout)) {
      const shown = plot.layout[name];
      if (/^[xy]axis/.test(name) && shown && shown.autorange === false && shown.range)
        Object.assign(axis, { range: shown.range.slice(), autorange: false });
    }
    return figure;
  }

  async function tick() {
    const context = window.dash_clientside;
    const outputs = context.callback_context.outputs_list;
    const nothing = outputs.map(() => context.no_update);
    if (busy || (document.hidden && seen)) return nothing;
    busy = true;
    if (lastAnswer === null) heard();
    try {
      const answer = await fetch("/api/view?seen=" + encodeURIComponent(seen),
        { cache: "no-store", signal: AbortSignal.timeout(5000) });
      if (!answer.ok) return nothing;
      const news = await answer.json();
      seen = news.seen;
      document.title = news.title;
      heard();
      return outputs.map(({ id, property }) => {
        const value = news.set[id + "." + property];
        if (value === undefined) return context.no_update;
        return property === "figure" ? keepZoom(id, value) : value;
      });
    } catch (error) {
      return nothing; // complain() says it
    } finally {
      busy = false;
    }
  }

  setInterval(complain, TICK);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && lastAnswer !== null) heard(); // a sleeping tab asked for nothing
  });
  window.dash_clientside = Object.assign({}, window.dash_clientside, { freerun: { tick } });
})();
