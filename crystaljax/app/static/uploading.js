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

// A form of one line: its fields, its button, and what they ask for.
function uploadForm(kind, text, fields, valuesOf) {
  const note = element("span", { class: "trouble", role: "alert" });
  const button = element("button", { type: "submit", "data-upload": kind }, text);
  const form = element("form", { class: "controls" }, ...fields, button, note);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const job = await trying(note, () =>
      postJson("api/jobs", { kind, upload: uploaded.id, ...valuesOf() }));
    if (job) await jobAdded(job);
  });
  return { form, button };
}

function labelled(text, id, value, placeholder = "") {
  const input = element("input", { type: "text", id, value, placeholder, maxlength: 200,
    autocomplete: "off", spellcheck: "false" });
  return element("label", {}, text, input);
}

function fillUploadActions() {
  const symbols = Object.values(uploaded.elements).map(({ symbol }) => symbol);
  const potentials = about.potentials.filter(({ elements }) =>
    !elements || symbols.every((symbol) => elements.includes(symbol)));
  const select = element("select", { id: "upload-calculator" },
    ...potentials.map(({ name, title }) => element("option", { value: name }, title)));
  const relax = uploadForm("relax", "Relax it", [element("label", {}, "with ", select)],
    () => ({ calculator: select.value, hull: "none" }));
  relax.button.disabled = !potentials.length;
  const forms = [relax.form];
  if (about.of_orbits) {
    forms.push(uploadForm("keep", "Keep a part, make the rest", [
      labelled("sites that stay ", "keep-sites", "", "Co,O or 0,1,2"),
      labelled("formula ", "keep-formula", "", formulaPlain(uploaded.formula)),
    ], () => ({ keep: byId("keep-sites").value, formulas: byId("keep-formula").value })).form);
  }
  if (about.modifies) {
    // A model of the modification task is asked with numbers, one of orbits says them.
    const [energy, group] = about.modify_with ? ["-0.05", uploaded.group || "1"] : ["", ""];
    const decorate = about.modify_with ? []
      : [labelled("other elements ", "modify-decorate", "", `${symbols[0]}:…`)];
    forms.push(uploadForm("modify", "Modify it", [
      labelled("energy less its own (eV/atom) ", "modify-energy", energy, "lowest"),
      labelled("space groups ", "modify-groups", group, "likely"),
      ...decorate,
    ], () => ({ energy_difference: byId("modify-energy").value,
      space_groups: byId("modify-groups").value,
      decorate: byId("modify-decorate")?.value ?? "" })).form);
  }
  byId("upload-actions").replaceChildren(...forms);
}

// Au1Cu3 → AuCu3.
const formulaPlain = (formula) => formula.replace(/([A-Za-z])1(?!\d)/g, "$1");

function fillUpload() {
  byId("upload").addEventListener("change", upload);
}
