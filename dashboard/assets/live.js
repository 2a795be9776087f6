// Once a second: ask for what changed since the last time, and hand it to the page.
// The same bytes go to every viewer; what did not change is not sent and not drawn again.
(function () {
  let seen = "", busy = false, lastAnswer = Date.now();
  const PATIENCE = 3000; // ms without an answer before the page says so

  function complain() {
    const silent = Date.now() - lastAnswer;
    const lost = document.getElementById("lost");
    if (!lost) return;
    lost.classList.toggle("on", silent > PATIENCE);
    if (silent > PATIENCE) {
      lost.textContent = "The dashboard's server has not answered for " +
        Math.round(silent / 1000) + " s: what you see is old.";
      document.title = "✖ no connection · freerun";
    }
  }

  async function tick() {
    const context = window.dash_clientside;
    const nothing = context.callback_context.outputs_list.map(() => context.no_update);
    const wanted = context.callback_context.outputs_list.map((o) => o.id + "." + o.property);
    if (busy || (document.hidden && seen)) return nothing;
    busy = true;
    try {
      const answer = await fetch("/api/view?seen=" + encodeURIComponent(seen),
        { cache: "no-store", signal: AbortSignal.timeout(5000) });
      if (!answer.ok) return nothing;
      const news = await answer.json();
      seen = news.seen;
      document.title = news.title;
      lastAnswer = Date.now();
      return wanted.map((piece) => piece in news.set ? news.set[piece] : context.no_update);
    } catch (error) {
      return nothing; // complain() says it
    } finally {
      busy = false;
    }
  }

  setInterval(complain, 500);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) lastAnswer = Date.now(); // a sleeping tab asked for nothing
  });
  window.dash_clientside = Object.assign({}, window.dash_clientside, { freerun: { tick } });
})();
