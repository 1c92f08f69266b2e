// A page to try the REST calls, made of the description that this instance gives of them (/openapi.json).

const KEY = "modelmesh-key";
const LONGEST_SHOWN = 200000;

/** Makes an element. Text is only ever text: answers contain other people's words. */
function h(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child != null));
  return made;
}

const key = document.getElementById("key");
key.value = sessionStorage.getItem(KEY) ?? "";
key.addEventListener("change", () => {
  if (key.value.trim()) sessionStorage.setItem(KEY, key.value.trim());
  else sessionStorage.removeItem(KEY);
});

/** The body that is shown first: the example of its schema. */
function exampleOf(description, operation) {
  const reference = operation.requestBody?.content["application/json"].schema.$ref;
  if (!reference) return null;
  const schema = description.components.schemas[reference.split("/").at(-1)];
  return JSON.stringify(schema.examples?.[0] ?? {}, null, 2);
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function asCurl(method, url, headers, body) {
  const words = ["curl"];
  if (method !== "GET") words.push("-X", method);
  for (const [name, value] of Object.entries(headers)) words.push("-H", quoted(`${name}: ${name === "authorization" ? "Bearer …" : value}`));
  if (body != null) words.push("-d", quoted(body));
  return [...words, quoted(url)].join(" ");
}

/** Shows an answer as it comes: events may take their time. */
async function show(answer, to) {
  const reader = answer.body?.getReader();
  const decoder = new TextDecoder();
  let text = "";
  while (reader) {
    const { done, value } = await reader.read();
    if (done) break;
    text += decoder.decode(value, { stream: true });
    to.textContent = text.slice(0, LONGEST_SHOWN);
    if (text.length > LONGEST_SHOWN) {
      to.textContent += "\n… (the rest is not shown)";
      await reader.cancel();
      return;
    }
  }
  try {
    to.textContent = JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    to.textContent = text; // events, or nothing
  }
}

function form(path, method, operation, description) {
  const fields = operation.parameters.map((parameter) => {
    const input = h("input", { name: parameter.name, required: parameter.required, autocomplete: "off" });
    return { parameter, input, shown: h("label", {}, `${parameter.name} (${parameter.in})`, input) };
  });
  const example = exampleOf(description, operation);
  const body = example == null ? null : h("textarea", { "aria-label": "body", spellcheck: "false" });
  if (body) body.value = example;
  const send = h("button", { type: "submit" }, "Send");
  const stop = h("button", { type: "button", disabled: true }, "Stop");
  const status = h("p", { role: "status" });
  const curl = h("pre", { "aria-label": "the same with curl" });
  const answered = h("pre", { "aria-label": "answer" });
  let running = null;
  stop.addEventListener("click", () => running?.abort());

  async function sent(event) {
    event.preventDefault();
    let target = path;
    const query = new URLSearchParams();
    for (const { parameter, input } of fields) {
      if (parameter.in === "path") target = target.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
      else if (input.value) query.set(parameter.name, input.value);
    }
    const url = new URL(`..${target}${query.size ? `?${query}` : ""}`, location.href);
    const headers = {};
    if (key.value.trim()) headers.authorization = `Bearer ${key.value.trim()}`;
    if (body) headers["content-type"] = "application/json";
    curl.textContent = asCurl(method, url.href, headers, body?.value);
    answered.textContent = "";
    status.textContent = "sent";
    running = new AbortController();
    send.disabled = true;
    stop.disabled = false;
    const began = performance.now();
    try {
      const answer = await fetch(url, { method, headers, body: body?.value, signal: running.signal, cache: "no-store" });
      const retry = answer.headers.get("retry-after");
      status.textContent = `${answer.status} ${answer.statusText}${retry ? ` · try again after ${retry} s` : ""}`;
      await show(answer, answered);
      status.textContent += ` · ${Math.round(performance.now() - began)} ms`;
    } catch (error) {
      status.textContent = running.signal.aborted ? "stopped" : `no answer: ${error.message}`;
    } finally {
      send.disabled = false;
      stop.disabled = true;
    }
  }
  return h("form", { onsubmit: sent }, h("div", { class: "row" }, fields.map((field) => field.shown)), body, h("div", { class: "row" }, send, stop), status, curl, answered);
}

function call(path, method, operation, description) {
  const details = h("details", { role: "listitem" }, h("summary", {}, h("code", {}, `${method} ${path}`), ` ${operation.summary}`));
  // Made when it is opened: few of them are.
  details.addEventListener("toggle", () => details.append(form(path, method, operation, description)), { once: true });
  return details;
}

try {
  const answer = await fetch("../openapi.json", { cache: "no-store" });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const description = await answer.json();
  const calls = Object.entries(description.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => call(path, method.toUpperCase(), operation, description)),
  );
  document.getElementById("calls").append(...calls);
} catch (error) {
  document.getElementById("failed").textContent = `The description of the calls could not be read: ${error.message}`;
}
