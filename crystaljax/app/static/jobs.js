"use strict";
// The jobs: how far they are, stopped, resumed and shown. What the page shows is in its
// address behind the #, so that a reload shows the same.

const PAUSE = 700; // ms between questions while something runs
let jobs = [];
let jobsTimer = 0;
let waitsFor = ""; // job whose crystals are shown as soon as they are there

const shownId = () => location.hash.slice(1);

function jobText(job) {
  const took = job.seconds >= 1 ? ` in ${countText(Math.round(job.seconds))} s` : "";
  const bar = job.progress;
  const far = bar ? `${bar.label} ${bar.done}/${bar.total}` : "getting ready";
  return { waiting: "waits in line", running: far, done: `done${took}`, failed: "failed",
    stopped: "stopped", interrupted: "interrupted: the server ended while it ran" }[job.state];
}

function jobItem(job) {
  const state = element("div", {}, element("small", {}, jobText(job)));
  if (job.state === "running") {
    const bar = element("progress", { "aria-label": `progress of ${job.title}` });
    if (job.progress?.total) {
      bar.max = job.progress.total;
      bar.value = job.progress.done;
    }
    state.prepend(bar);
  }
  const actions = element("div", { class: "actions" });
  const add = (text, act) => {
    const button = element("button", { type: "button", "data-act": text,
      "aria-label": `${text} ${job.title}` }, text);
    button.addEventListener("click", act);
    actions.append(button);
  };
  const change = (what) => async () => {
    await trying(byId("trouble"), () => postJson(`api/jobs/${job.id}/${what}`));
    await refreshJobs();
  };
  if (job.state === "done") add("show", () => showJob(job.id, true));
  if (job.state === "running" || job.state === "waiting") add("stop", change("stop"));
  if (job.can_resume) add("resume", async () => { waitsFor = job.id; await change("resume")(); });
  if (job.state !== "running") {
    add("remove", async () => {
      if (!confirm(`Remove ${job.title} with its files?`)) return;
      await change("remove")();
    });
  }
  const what = job.verb === "screen" ? "relaxed" : job.verb === "modify" ? "modified" : "made";
  const made = new Date(1000 * job.created).toLocaleString();
  const item = element("li", { "data-job": job.id, "data-state": job.state,
    "aria-current": job.id === shownId() },
  element("div", {}, element("b", {}, job.title), element("small", {}, `${what}, ${made}`)),
  state, actions);
  if (job.reason) item.append(element("p", { class: "reason trouble" }, job.reason));
  return item;
}

function drawJobs() {
  // What has the focus keeps it, although all is drawn anew.
  const focused = document.activeElement?.closest?.("#jobs [data-act]");
  const [id, act] = [focused?.closest("li").dataset.job, focused?.dataset.act];
  byId("jobs").replaceChildren(...jobs.toReversed().map(jobItem));
  byId("no-jobs").hidden = jobs.length > 0;
  if (focused) byId("jobs").querySelector(`[data-job="${id}"] [data-act="${act}"]`)?.focus();
}

let drawnAs = "";
async function refreshJobs() {
  clearTimeout(jobsTimer);
  const found = await trying(byId("trouble"), () => getJson("api/jobs"));
  if (found) {
    jobs = found.jobs;
    const text = JSON.stringify(jobs) + shownId();
    if (text !== drawnAs) drawJobs();
    drawnAs = text;
    const ready = jobs.find((job) => job.id === waitsFor);
    if (ready?.state === "done") {
      waitsFor = "";
      showJob(ready.id, true);
    }
    if (shown && !jobs.some((job) => job.id === shown.job)) clearCrystals();
  }
  // Another tab may ask too: now and then it is looked for what is new.
  const busy = jobs.some((job) => job.state === "running" || job.state === "waiting");
  jobsTimer = setTimeout(refreshJobs, !found ? 5 * PAUSE : busy ? PAUSE : 4 * PAUSE);
}

async function jobAdded(job) {
  waitsFor = job.id;
  await refreshJobs();
}

async function showJob(id, focus = false) {
  if (shownId() !== id) history.replaceState(null, "", `#${id}`);
  const job = jobs.find((each) => each.id === id);
  drawJobs();
  if (job?.state === "done") await showCrystals(job, focus);
  else clearCrystals();
}
