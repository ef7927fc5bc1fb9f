"use strict";
// The start: what the server offers, then the jobs that are there.

let about = null;

async function start() {
  about = await trying(byId("trouble"), () => getJson("api/about"));
  if (!about) return;
  byId("model").textContent = `crystaljax ${about.version}, model ${about.limits || about.model}`;
  fillForm();
  fillCrystals();
  fillUpload();
  await refreshJobs();
  if (shownId()) await showJob(shownId());
  addEventListener("hashchange", () => showJob(shownId()));
  document.body.dataset.ready = "true";
}

start();
