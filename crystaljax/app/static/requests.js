"use strict";
// Questions to the server, which knows this page by the token in its address.

const token = location.pathname.split("/")[1];

// What the server says cannot be done, in words for the user.
class Refused extends Error {}

async function answerOf(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Refused("The server does not answer. Start crystaljax app again, and open " +
      "the address that it prints: the jobs will be there.");
  }
  if (response.status === 403) {
    throw new Refused("The server was started again, and has another address: open the one " +
      "that it printed. The jobs are there.");
  }
  const found = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(found.error ?? `status ${response.status}`);
  return found;
}

const getJson = (path) => answerOf(path);

function postJson(path, values = {}) {
  return answerOf(path, {
    method: "POST", body: JSON.stringify(values),
    headers: { "content-type": "application/json", "x-crystaljax-token": token } });
}

function postFile(path, file) {
  return answerOf(path, {
    method: "POST", body: file,
    headers: { "content-type": "application/octet-stream", "x-crystaljax-token": token } });
}

// Runs something that may be refused; says so in a box, and clears it before.
async function trying(box, run) {
  box.textContent = "";
  try {
    return await run();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    box.textContent = error.message;
    box.hidden = false;
    return null;
  }
}
