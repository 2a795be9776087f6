// Once a second: ask for what changed since the last time, and hand it to the page.
// The same bytes go to every viewer; what did not change is not sent and not drawn again.
(function () {
  let seen = "", busy = false, lastAnswer = Date.now(), waited = 0;
  const TICK = 500, PATIENCE = 3000; // ms; without an answer for so long, the page says so

  function heard() {
    lastAnswer = Date.now();
    waited = 0;
  }

  // Counted in ticks: a page that draws or sleeps for seconds has not waited meanwhile.
  function complain() {
    const lost = document.getElementById("lost");
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

  // Dash's own callbacks forget the answer of one that is slow when they are asked again, and what
  // does not change any more would never be seen: so the pieces are set here. What fails is asked
  // for again, because `seen` moves last.
  async function tick() {
    if (busy || (document.hidden && seen)) return;
    busy = true;
    try {
      const answer = await fetch("/api/view?seen=" + encodeURIComponent(seen),
        { cache: "no-store", signal: AbortSignal.timeout(5000) });
      if (!answer.ok) return;
      const news = await answer.json();
      for (const [piece, value] of Object.entries(news.set)) {
        const [id, property] = piece.split(".");
        const figure = property === "figure";
        window.dash_clientside.set_props(id, { [property]: figure ? keepZoom(id, value) : value });
      }
      document.title = news.title;
      seen = news.seen;
      heard();
    } catch (error) {
      console.error(error); // and complain() says it
    } finally {
      busy = false;
    }
  }

  function begin() {
    const ready = document.getElementById("lost") && (window.dash_clientside || {}).set_props;
    if (!ready) return setTimeout(begin, 50);
    heard();
    tick();
    setInterval(tick, 1000);
    setInterval(complain, TICK);
  }

  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) heard(); // a sleeping tab asked for nothing
  });
  begin();
})();
