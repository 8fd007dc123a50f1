// The page of the sandbox. Everything that comes from a call is put in as text.
"use strict";

const EVERY_MS = 1000;
const byId = (id) => document.getElementById(id);

let operator = null;
let last = 0; // the number of the newest call that is shown
let run = null;
let clock = { at: 0, ms: 0 };
let timer = 0;
let linked = null; // what the list of people and faults was last made from

// --- small things ------------------------------------------------------------------

/** Make an element; texts and elements become its content. */
function make(tag, attributes = {}, ...content) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...content.filter((one) => one !== null && one !== ""));
  return element;
}

/** Write a text, but only where it changes: a screen reader repeats what is written. */
function put(id, text) {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
}

const plural = (n, name) => `${n.toLocaleString("en")} ${name}${n === 1 ? "" : "s"}`;
const iso = (ms) => new Date(ms).toISOString();

function span(ms) {
  const units = [["day", 864e5], ["hour", 36e5], ["minute", 6e4], ["second", 1e3]];
  const [name, size] = units.find(([, size]) => Math.abs(ms) >= size) ?? units[3];
  const number = Math.round(Math.abs(ms) / size * 10) / 10;
  return plural(number, name);
}

async function ask(path, command) {
  const options = command === undefined ? {} : {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(command),
  };
  const reply = await fetch(`/_console/${path}`, options);
  const found = await reply.json();
  if (!reply.ok) throw new Error(found.error);
  return found;
}

/** Send a command, and show the message that it returns. */
async function tell(path, command, said) {
  const place = byId(said);
  try {
    const { message } = await ask(path, command);
    delete place.dataset.bad;
    place.textContent = message;
  } catch (error) {
    place.dataset.bad = "";
    place.textContent = error instanceof TypeError ? "The sandbox does not answer." : error.message;
  }
  return poll();
}

// --- copying -----------------------------------------------------------------------

async function copy(button, element) {
  const text = element.textContent;
  let label = "Copied";
  try {
    // Missing where the page is not from this machine and not from https.
    await navigator.clipboard.writeText(text);
  } catch {
    getSelection().selectAllChildren(element);
    label = "Press Ctrl+C";
  }
  const before = button.firstChild.data;
  if (before === label) return;
  button.firstChild.data = label;
  put("news", label);
  setTimeout(() => { button.firstChild.data = before; }, 1500);
}

function copyButton(element, what) {
  const hush = make("span", { class: "hush" }, ` ${what}`);
  const click = (event) => copy(event.currentTarget, element);
  return make("button", { type: "button", class: "quiet", onclick: click }, "Copy", hush);
}

// --- Connect -----------------------------------------------------------------------

/** Fill a row of radio buttons; *choose* is told the index. */
function pills(id, names, choose) {
  const field = byId(id);
  const chosen = field.querySelector("input:checked")?.value;
  const legend = field.querySelector("legend");
  const at = Math.max(0, names.indexOf(chosen));
  field.replaceChildren(legend, ...names.map((name, index) => make("label", {},
    make("input", {
      type: "radio", name: id, value: name, checked: index === at,
      onchange: () => choose(index),
    }),
    make("span", {}, name))));
  choose(at);
}

function showRole(role) {
  put("api-key", role.api_key);
  put("client-secret", role.client_secret);
  put("may", `${role.roles.join(", ") || "nothing"} (site ${role.site_id})`);
  const names = Object.keys(role.snippets);
  pills("snippets", names, (at) => put("snippet", role.snippets[names[at]].trimEnd()));
}

function showSubscription(one) {
  const id = make("code", {}, one.subscription_id);
  const key = make("code", {}, one.public_key);
  return make("dl", { class: "keys" },
    make("dt", {}, "Subscription"), make("dd", {}, id, copyButton(id, "the subscription")),
    make("dt", {}, "Public key"), make("dd", {}, key, copyButton(key, "the public key")),
    make("dt", {}, "Pages on"), make("dd", {}, one.domains.join(", ") || "no domain"));
}

function showTest([identities, meaning]) {
  const codes = identities.map((one) => make("code", {}, one));
  return [make("dt", {}, meaning), ...codes.map((code) => make("dd", {}, code))];
}

function showOperator() {
  document.title = `${operator.scope} sandbox`;
  put("title", `${operator.scope} sandbox`);
  put("url", location.origin);
  put("kept", String(operator.calls_kept));
  const names = operator.roles.map((one) => one.name);
  pills("roles", names, (at) => showRole(operator.roles[at]));
  byId("client-side").hidden = !operator.subscriptions.length;
  byId("subscriptions").replaceChildren(...operator.subscriptions.map(showSubscription));
  byId("tests").replaceChildren(...operator.test_identities.flatMap(showTest));
  const { refresh_after, identity_expires_after, refresh_expires_after } = operator.lifetimes;
  put("lifetimes", `A token is due for refresh after ${span(refresh_after * 1000)}, ends after `
    + `${span(identity_expires_after * 1000)}, and can be refreshed for ${span(refresh_expires_after * 1000)}.`);
  const any = byId("path").firstElementChild;
  byId("path").replaceChildren(any, ...operator.paths.map((path) => make("option", { value: path }, path)));
}

// --- Calls -------------------------------------------------------------------------

const failed = (call) => call.status === 0 || call.status >= 400;

function row(call) {
  const status = make("span", { class: failed(call) ? "status failed" : "status" },
    call.status ? String(call.status) : "cut off");
  const who = [call.client ?? "", call.items ? plural(call.items, "item") : "", call.fault ? "fault" : ""];
  const details = make("details", {},
    make("summary", {},
      make("time", { class: "when", datetime: iso(call.at_ms), title: iso(call.at_ms) },
        iso(call.at_ms).slice(11, 19)),
      status,
      make("span", { class: "path" }, `${call.method} ${call.path}`),
      make("span", { class: "who" }, who.filter(Boolean).join(" · ")),
      make("span", { class: "took" }, `${call.took_ms < 10 ? call.took_ms : Math.round(call.took_ms)} ms`)));
  details.addEventListener("toggle", () => { if (details.open) open(details, call.number); });
  return make("li", { id: `call-${call.number}`, "data-failed": failed(call) }, details);
}

async function open(details, number) {
  if (details.childElementCount > 1) return;
  const place = make("div", { class: "opened", "aria-busy": "true" });
  details.append(place);
  try {
    place.replaceChildren(...describe(await ask(`calls/${number}`)));
  } catch (error) {
    place.replaceChildren(make("p", { class: "faint" },
      error instanceof TypeError ? "The sandbox does not answer." : error.message));
  }
  place.removeAttribute("aria-busy");
}

function describe(call) {
  const found = [];
  if (call.reason) {
    found.push(make("div", { class: call.reason.failed ? "reason" : "reason mild" },
      make("p", {}, call.reason.text), make("p", { class: "faint" }, call.reason.said)));
  } else if (call.fault) {
    found.push(make("div", { class: "reason mild" }, make("p", {}, `You armed it: ${call.fault}.`)));
  }
  found.push(facts(call), part("Request", call.request), part("Reply", call.reply));
  found.push(make("details", {}, make("summary", {}, "Headers"),
    headers("Request, without the API key", call.request_headers),
    headers("Reply", call.reply_headers)));
  return found;
}

function facts(call) {
  const lag = call.sent_ms === null ? null : call.at_ms - call.sent_ms;
  const pairs = [
    ["API key", call.client ?? call.key],
    ["Client", call.client_version],
    ["Trace", call.trace_id],
    ["Caller’s clock", lag === null ? null : Math.abs(lag) < 1000 ? "right"
      : `${span(lag)} ${lag > 0 ? "behind" : "ahead"}`],
  ];
  return make("dl", { class: "facts" }, ...pairs.filter(([, value]) => value)
    .map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

function part(title, { how, text, cut, json, bytes }) {
  const size = bytes ? ` ${plural(bytes, "byte")} on the wire.` : "";
  const heading = make("h3", {}, title);
  const end = cut ? ` Only the first ${plural(text.length, "character")} are shown.` : "";
  const said = make("p", { class: "faint" }, how + size + end);
  if (!text) return make("div", { class: "part" }, heading, said);
  const pre = make("pre", { tabindex: "0", "aria-label": title }, ...(json ? colored(text) : [text]));
  return make("div", { class: "part" }, heading, copyButton(pre, `the ${title.toLowerCase()}`), said, pre);
}

/** Color JSON; very long texts stay plain. */
function colored(text) {
  if (text.length > 20_000) return [text];
  const found = [];
  let end = 0;
  for (const match of text.matchAll(/("(?:[^"\\]|\\.)*")(:)?|\b(?:true|false|null)\b|-?\d[\d.eE+-]*/g)) {
    const kind = match[2] ? "j-key" : match[1] ? "j-text" : "j-word";
    const word = match[1] ?? match[0];
    found.push(text.slice(end, match.index), make("span", { class: kind }, word));
    end = match.index + word.length;
  }
  return [...found, text.slice(end)];
}

function headers(caption, pairs) {
  if (!pairs.length) return "";
  return make("table", {}, make("caption", {}, caption), make("tbody", {}, ...pairs.map(
    ([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value)))));
}

function showCalls({ calls, first }, known) {
  const list = byId("list");
  while (list.lastElementChild && Number(list.lastElementChild.id.slice(5)) < first) {
    list.lastElementChild.remove();
  }
  const rows = calls.map(row).reverse();
  // Calls from before the page was opened are not announced.
  if (known) for (const one of rows) one.classList.add("fresh");
  list.prepend(...rows);
  if (known && calls.length) announce(calls);
  filter();
}

function announce(calls) {
  const newest = calls[calls.length - 1];
  put("news", calls.length > 1 ? `${calls.length} new calls`
    : `New call ${newest.number}: ${newest.path}, ${newest.status || "no answer"}`);
}

function filter() {
  const only = byId("only-failed").checked;
  const rows = [...byId("list").children];
  for (const one of rows) one.hidden = only && !("failed" in one.dataset);
  const shown = rows.filter((one) => !one.hidden).length;
  put("count", rows.length ? plural(rows.length, "call") : "");
  byId("empty").hidden = shown > 0;
  put("empty", rows.length ? "No call has failed."
    : "No calls yet. Paste a snippet from above into a shell, and watch its call come in, decrypted.");
}

// --- Controls ----------------------------------------------------------------------

function line(name, detail, label, what, click) {
  return make("li", {},
    make("span", {}, name, make("span", { class: "faint" }, detail)),
    make("button", { type: "button", class: "quiet", onclick: click }, label,
      make("span", { class: "hush" }, ` ${what}`)));
}

function person(one) {
  const name = one.name ?? `Someone ${one.hash.slice(0, 8)}…`;
  const since = one.name === null ? `by code or token/logout, ${iso(one.since_ms).slice(0, 16)}` : `since ${iso(one.since_ms).slice(0, 16)}`;
  return line(name, `${since.replace("T", " ")} UTC`, "Opt in", name,
    () => tell("opt-out", { out: false, hash: one.hash }, "people-said"));
}

function fault(one) {
  const calls = one.times === 1 ? "the next call" : `the next ${one.times} calls`;
  const what = one.what[0].toUpperCase() + one.what.slice(1);
  return line(what, one.path ? `${calls} of ${one.path}` : calls, "Disarm", what,
    () => tell("disarm", { number: one.number }, "fault-said"));
}

function showControls(updates) {
  // Made anew only where it changes, so that the focus stays.
  const now = JSON.stringify([updates.opt_outs, updates.opt_out_count, updates.armed]);
  if (now === linked) return;
  linked = now;
  const more = updates.opt_out_count - updates.opt_outs.length;
  byId("out").replaceChildren(...updates.opt_outs.map(person),
    ...(more > 0 ? [make("li", {}, `and ${more.toLocaleString("en")} more`)] : []));
  byId("nobody").hidden = updates.opt_outs.length > 0;
  byId("armed").replaceChildren(...updates.armed.map(fault));
  byId("unarmed").hidden = updates.armed.length > 0;
}

function showClock({ now_ms, ahead_ms }) {
  clock = { at: performance.now(), ms: now_ms };
  byId("ahead").hidden = !ahead_ms;
  put("ahead", `${span(ahead_ms)} ${ahead_ms > 0 ? "ahead" : "behind"}`);
  tick();
}

function tick() {
  if (!clock.at) return;
  const now = new Date(clock.ms + performance.now() - clock.at);
  const text = `${now.toISOString().slice(0, 19).replace("T", " ")} UTC`;
  byId("clock").dateTime = now.toISOString();
  put("clock", text);
}

// What each fault is made from, and what its number means.
const FAULTS = {
  429: ["Retry-After in seconds", 2, { min: 0, max: 86400 }, (n) => ({ status: 429, retry_after: n })],
  503: [null, 0, {}, () => ({ status: 503 })],
  delay: ["By how many seconds", 2, { min: 0, max: 600, step: "any" }, (n) => ({ delay: n })],
  cut: ["After how many bytes", 20, { min: 0, max: 1048576 }, (n) => ({ cut_after: n })],
  drop: [null, 0, {}, () => ({ drop: true })],
  clock: ["Seconds ahead (− is behind)", 300, { step: "any" }, (n) => ({ clock_offset: n })],
};

function chooseFault() {
  const [label, value, limits] = FAULTS[byId("fault").value];
  const amount = byId("amount");
  byId("amount-field").hidden = label === null;
  amount.disabled = label === null;
  put("amount-label", label ?? "");
  for (const name of ["min", "max", "step"]) {
    if (name in limits) amount.setAttribute(name, limits[name]);
    else amount.removeAttribute(name);
  }
  amount.value = value;
}

const label = (name) => (name[0].toUpperCase() + name.slice(1).replaceAll("_", " ")).replace(/\buid\b/i, "UID");

function shown(name, value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  const text = String(value);
  if (/^\d{4}-\d\d-\d\dT/.test(text)) return text.slice(0, 19).replace("T", " ");
  return /raw_uid|hash/.test(name) ? make("code", {}, text) : text;
}

/** Show what was inspected: its own fields, what the operator knows, and the parts. */
function report(fields, title) {
  const found = [make("p", { class: "what" }, label(title + (fields.kinds.join(" or ") || "nothing known")))];
  const pairs = Object.entries({ ...fields, ...fields.decrypted })
    .filter(([name, value]) => !["kinds", "notes", "length"].includes(name) && typeof value !== "object");
  if (pairs.length) found.push(make("dl", { class: "found" }, ...pairs.flatMap(([name, value]) => [
    make("dt", {}, label(name)),
    make("dd", {}, shown(name, value)),
  ])));
  found.push(...fields.notes.map((note) => make("p", { class: "note" }, note)));
  for (const [name, value] of Object.entries(fields)) {
    if (value?.kinds) found.push(...report(value, `${label(name)}: `));
  }
  return found;
}

async function inspect(event) {
  event.preventDefault();
  const place = byId("inspected");
  try {
    place.replaceChildren(...report(await ask("inspect", { value: byId("value").value }), ""));
  } catch (error) {
    place.replaceChildren(make("p", { class: "said", "data-bad": "" }, error.message));
  }
}

function wire() {
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", () => copy(button, byId(button.dataset.copy)));
  }
  byId("people-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const command = { out: event.submitter?.value !== "in", identity: byId("identity").value, kind: byId("kind").value };
    tell("opt-out", command, "people-said");
  });
  byId("fault-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const command = FAULTS[byId("fault").value][3](Number(byId("amount").value));
    const path = byId("path").value || null;
    tell("faults", { ...command, path, times: Number(byId("times").value) }, "fault-said");
  });
  byId("time-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const seconds = Number(byId("length").value) * Number(byId("unit").value);
    tell("clock", { seconds }, "time-said");
  });
  byId("back").addEventListener("click", () => tell("clock", { seconds: null }, "time-said"));
  byId("inspect-form").addEventListener("submit", inspect);
  byId("fault").addEventListener("change", chooseFault);
  byId("only-failed").addEventListener("change", filter);
  byId("clear").addEventListener("click", () => ask("clear", {}).then(poll, poll));
  document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
}

// --- keeping up --------------------------------------------------------------------

function lost() {
  byId("link").dataset.state = "lost";
  put("link", "The sandbox does not answer");
}

async function refresh() {
  const known = run !== null;
  const updates = await ask(`updates/${last}`);
  if (updates.run !== run) {
    operator = await ask("operator");
    showOperator();
    // Another operator numbers its calls from 1, so some updates are missing.
    if (known) {
      byId("list").replaceChildren();
      last = 0;
      run = updates.run;
      return refresh();
    }
    run = updates.run;
  }
  // Two polls may have been under way at once.
  updates.calls = updates.calls.filter((one) => one.number > last);
  showCalls(updates, known);
  if (updates.calls.length) last = updates.calls[updates.calls.length - 1].number;
  showControls(updates);
  showClock(updates);
  byId("link").dataset.state = "live";
  put("link", "Live");
}

async function poll() {
  clearTimeout(timer);
  if (!document.hidden) await refresh().catch(lost);
  clearTimeout(timer);
  timer = setTimeout(poll, EVERY_MS);
}

wire();
chooseFault();
setInterval(tick, EVERY_MS);
poll();
