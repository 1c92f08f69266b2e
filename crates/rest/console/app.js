// The console: what is told as it happens, who calls, and which view is shown. No state of the mesh is kept but the last told.
import { VIEWS } from "./views.js";

const KEY = "modelmesh-key";
const EVENTS_KEPT = 1000;
const AGAIN_MS = [1000, 2000, 5000, 10000];

export const mesh = { now: null, events: [], skewMs: 0 };

/** Makes an element. Text is only ever text: names of models are other people's words. */
export function h(tag, props = {}, ...children) {
  const made = tag.startsWith("svg:") ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.flat(9).filter((child) => child != null && child !== false));
  return made;
}

const byId = (id) => document.getElementById(id);

function headers(more = {}) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...more, authorization: `Bearer ${key}` } : more;
}

/** Asks this origin. Fails with the server's words. */
export async function request(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: headers(options.headers), cache: "no-store" });
  if (answer.ok) return answer;
  let why = answer.statusText;
  try {
    why = (await answer.json()).error;
  } catch {
    // it is no JSON; the status must do
  }
  if (answer.status === 401) askForKey();
  throw Object.assign(new Error(why || `status ${answer.status}`), { status: answer.status, after: answer.headers.get("retry-after") });
}

/** Makes a call of the management API. */
export async function ask(method, body = {}) {
  return (await request(`ask/${method}`, { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } })).json();
}

function askForKey() {
  const dialog = byId("ask");
  if (!dialog.open) dialog.showModal();
}

byId("key").addEventListener("click", askForKey);
byId("ask").addEventListener("close", () => {
  const dialog = byId("ask");
  const secret = byId("secret");
  if (dialog.returnValue === "use" && secret.value.trim()) sessionStorage.setItem(KEY, secret.value.trim());
  if (dialog.returnValue === "none") sessionStorage.removeItem(KEY);
  secret.value = dialog.returnValue = "";
  link.abort();
  route();
});

// --- what is told ---------------------------------------------------------------------------------

let link = new AbortController();
let last = "0";

function take(text) {
  const now = JSON.parse(text);
  mesh.skewMs = now.now_ms - Date.now();
  // A restart of the instance begins to count anew.
  if (now.events.length && mesh.events.length && now.events[0].n <= mesh.events.at(-1).n) mesh.events = [];
  mesh.events.push(...now.events);
  if (mesh.events.length > EVENTS_KEPT) mesh.events.splice(0, mesh.events.length - EVENTS_KEPT);
  mesh.now = now;
  byId("link").textContent = `live · ${now.instance}`;
  byId("link").className = "";
  shown.update?.();
}

async function follow() {
  link = new AbortController();
  const answer = await request("events", { headers: { "last-event-id": last }, signal: link.signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const fields = Object.fromEntries(part.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]));
      if (fields.event === "fault") throw new Error(JSON.parse(fields.data).error);
      last = fields.id;
      take(fields.data);
    }
  }
}

async function followAlways() {
  for (let tries = 0; ; tries += 1) {
    let why = "the instance closed the stream";
    try {
      await follow();
      tries = 0;
    } catch (error) {
      if (error.name === "AbortError") {
        tries = -1;
        continue;
      }
      why = error.message;
    }
    byId("link").textContent = `not live: ${why}`;
    byId("link").className = "lost";
    await new Promise((go) => {
      const timer = setTimeout(go, AGAIN_MS[Math.min(tries, AGAIN_MS.length - 1)]);
      link = { abort: () => (clearTimeout(timer), go()) };
    });
  }
}

// --- views ----------------------------------------------------------------------------------------

let shown = {};

function route() {
  const [name, ...words] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  const view = VIEWS[name] ?? VIEWS[""];
  for (const anchor of byId("nav").children) {
    const its = anchor.hash.replace(/^#\/?/, "");
    if (its === (view.under ?? name)) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  }
  shown.leave?.();
  const main = byId("main");
  main.replaceChildren();
  document.title = `${view.title} · ModelMesh`;
  shown = view.show(main, words.join("/")) ?? {};
  shown.update?.();
}

addEventListener("hashchange", () => {
  route();
  byId("main").focus();
});

// What a part of a bar is, beside the pointer; the same stands in words below the bar.
addEventListener("pointermove", (event) => {
  const tip = byId("tip");
  const what = event.target.dataset?.tip;
  tip.hidden = !what;
  if (!what) return;
  tip.textContent = what;
  tip.style.left = `${Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 4)}px`;
  tip.style.top = `${event.clientY + 16}px`;
});

route();
followAlways();
