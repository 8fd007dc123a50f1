// Keeps the page in step with the server, which refreshes the tokens when they are due.
"use strict";

const EVERY_MS = 2000;
const polling = new AbortController();
const byId = (id) => document.getElementById(id);

// Only what has changed is written: a screen reader repeats what is written.
function put(id, text) {
  const element = byId(id);
  if (element.tagName === "TIME") {
    element.dateTime = text ?? "";
    text = text && new Date(text).toLocaleString();
  }
  if (element.textContent !== String(text ?? "")) element.textContent = text ?? "";
}

function show(view) {
  for (const id of ["meaning", "error", "refreshes", "advertising_token", "eid"]) {
    put(id, view[id]);
  }
  for (const id of ["refresh_from", "identity_expires", "now"]) put(id, view[id]);
  put("state", view.title);
  byId("state").dataset.state = view.state;
  byId("error").hidden = !view.error;
  byId("identity").hidden = !view.advertising_token;
  byId("opt-out-form").hidden = view.state === "opted_out";
  document.title = `The Daily Sandbox: ${view.title}`;
}

async function poll() {
  if (document.visibilityState === "visible") {
    try {
      const reply = await fetch("/identity", { signal: polling.signal });
      if (reply.status === 401) return location.reload();
      if (reply.ok) show(await reply.json());
    } catch (error) {
      if (polling.signal.aborted) return;
      // The server is away for a moment: the next round tries again.
    }
  }
  setTimeout(poll, EVERY_MS);
}

if (byId("state")) {
  // An answer on its way must not bring back the session that a form has ended.
  addEventListener("submit", () => polling.abort());
  for (const time of document.querySelectorAll("time")) put(time.id, time.dateTime);
  poll();
}
