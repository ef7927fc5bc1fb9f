"use strict";
// A crystal that the user brings: read by the server, drawn, and acted on.

let uploaded = null;

async function upload() {
  const [file] = byId("upload").files;
  byId("uploaded").hidden = true;
  if (!file) return;
  const note = byId("upload-note");
  note.classList.remove("trouble");
  note.textContent = "reading …";
  try {
    uploaded = await postFile(`api/uploads?name=${encodeURIComponent(file.name)}`, file);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    note.classList.add("trouble");
    note.textContent = error.message;
    return;
  }
  note.textContent = uploaded.num_crystals > 1
    ? `the first of ${uploaded.num_crystals} crystals` : "";
  byId("upload-formula").textContent = formulaText(uploaded.formula);
  byId("upload-name").textContent = uploaded.name;
  byId("uploaded").hidden = false;
  paintScene(byId("upload-canvas"), buildScene(uploaded.structure, uploaded.elements));
  fillUploadActions();
}

function fillUploadActions() {
  const symbols = Object.values(uploaded.elements).map(({ symbol }) => symbol);
  const potentials = about.potentials.filter(({ elements }) =>
    !elements || symbols.every((symbol) => elements.includes(symbol)));
  const select = element("select", { id: "upload-calculator" }, ...potentials.map(({ name, title }) =>
    element("option", { value: name }, title)));
  const relax = element("button", { type: "button", id: "upload-relax" }, "Relax it");
  relax.disabled = !potentials.length;
  relax.addEventListener("click", async () => {
    const job = await trying(byId("trouble"), () => postJson("api/jobs", {
      kind: "relax", upload: uploaded.id, calculator: select.value, hull: "none" }));
    if (job) await jobAdded(job);
  });
  byId("upload-actions").replaceChildren(
    element("label", {}, "with ", select), relax);
}

function fillUpload() {
  byId("upload").addEventListener("change", upload);
}
