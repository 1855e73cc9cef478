// The live parts of the console. Without it every page still shows the state
// at the time it was loaded.
"use strict";

const list = document.getElementById("changes");
if (list && window.EventSource) {
  const live = document.getElementById("live");
  const stream = new EventSource("/console/changes");
  stream.addEventListener("open", () => { live.hidden = false; });
  stream.addEventListener("error", () => { live.hidden = true; });
  // The server escapes what it renders; see console.go.
  stream.addEventListener("change", (e) => {
    document.getElementById("nochange")?.remove();
    list.insertAdjacentHTML("afterbegin", e.data);
    list.firstElementChild.classList.add("fresh");
    while (list.children.length > 60) list.lastElementChild.remove();
  });
}

const grouped = (n) => String(n).replace(/\B(?=(\d{3})+(?!\d))/g, "\u202f");
const show = (element, n) => {
  const text = grouped(n ?? 0);
  if (element.textContent !== text) element.textContent = text;
};

async function refresh() {
  if (document.hidden) return;
  const answer = await fetch("/v1/topology");
  if (!answer.ok) return;
  const { stats } = await answer.json();
  for (const e of document.querySelectorAll("[data-topic]")) show(e, stats.topics?.[e.dataset.topic]?.records);
  for (const box of document.querySelectorAll("[data-group]")) {
    const g = stats.groups?.[box.dataset.group] ?? {};
    for (const e of box.querySelectorAll("[data-count]")) show(e, g[e.dataset.count]);
    box.classList.toggle("idle", !g.running);
    box.querySelector(".dead").classList.toggle("zero", !g.deadLetters);
  }
}
if (document.querySelector("[data-topic]")) {
  setInterval(() => refresh().catch(() => {}), Number(document.body.dataset.refresh));
}
