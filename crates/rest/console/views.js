// The views. Each shows itself in `main` and returns what to do when something new is told.
import { ask, h, mesh, request } from "./app.js";

const FRAME_MS = 8;
const numbers = new Intl.NumberFormat("en");

export function bytes(count) {
  let value = Number(count ?? 0);
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1024) return `${value < 10 && unit !== "B" ? value.toFixed(1) : Math.round(value)} ${unit}`;
    value /= 1024;
  }
  return `${value.toFixed(1)} TiB`;
}

export function ago(ms) {
  if (!Number(ms)) return "never";
  const seconds = Math.max(0, Math.round((Date.now() + mesh.skewMs - Number(ms)) / 1000));
  if (seconds < 120) return `${seconds} s ago`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min ago`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h ago` : `${Math.round(seconds / 86400)} days ago`;
}

const at = (ms) => new Date(Number(ms)).toLocaleTimeString("en-GB");
const words = (text) => String(text).replaceAll("_", " ");
const linkTo = (model) => h("a", { href: `#/model/${encodeURIComponent(model)}` }, model);

function table(columns, rows, caption) {
  return h("div", { class: "scroll" }, h("table", {},
    h("caption", { class: "soft" }, caption ?? ""),
    h("thead", {}, h("tr", {}, columns.map((column) => h("th", { scope: "col", class: column.num && "num" }, column.name)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, columns.map((column) => h("td", { class: column.num && "num" }, column.of(row))))))));
}

function hue(model) {
  let hash = 0;
  for (const letter of model) hash = (hash * 31 + letter.codePointAt(0)) | 0;
  return `k${(hash >>> 0) % 8}`;
}

/** Runs a form's or a button's work, and says how it ended. */
async function work(said, doing, run) {
  said.className = "said soft";
  said.textContent = `${doing} …`;
  try {
    const done = await run();
    said.className = "said good";
    said.textContent = done ?? "done";
    return true;
  } catch (error) {
    said.className = "said bad";
    said.textContent = error.after ? `${error.message} (again in ${error.after} s)` : error.message;
    return false;
  }
}

const saying = () => h("p", { class: "said", role: "status" });

// --- instances ------------------------------------------------------------------------------------

function place(one) {
  const whole = Math.max(one.capacity, 1);
  let left = 0;
  const part = (size, kind, tip) => {
    const width = Math.min((100 * size) / whole, 100 - left);
    const rect = h("svg:rect", { x: left, y: 0, width: Math.max(width, 0), height: 10, class: kind, "data-tip": tip });
    left += Math.max(width, 0);
    return rect;
  };
  const rects = one.models.map(([model, size, ready]) => part(size, `${hue(model)}${ready ? "" : " loading"}`, `${model}, ${bytes(size)}${ready ? "" : ", loading"}`));
  const [others, otherBytes] = one.others;
  if (others) rects.push(part(otherBytes, "rest", `${others} smaller copies, ${bytes(otherBytes)}`));
  const loads = one.loads ? `${one.loads} loads${one.queued ? `, ${one.queued} of them wait for ${(one.wait_ms / 1000).toFixed(1)} s` : ""}` : "no loads";
  return [
    h("p", {}, h("strong", {}, one.id), h("span", { class: one.state === "serving" ? "good" : "bad" }, one.state),
      h("span", { class: "soft" }, `${bytes(one.used)} of ${bytes(one.capacity)} · ${numbers.format(one.copies)} copies · ${loads}`,
        one.zone && ` · zone ${one.zone}`, one.labels.length > 0 && ` · ${one.labels.join(", ")}`)),
    h("svg:svg", { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": `${Math.round((100 * one.used) / whole)} percent of the memory is used` }, rects),
    one.models.length > 0 && h("details", {}, h("summary", { class: "soft" }, "largest models"),
      h("p", { class: "soft" }, one.models.map(([model, size, ready]) => h("span", {}, linkTo(model), ` ${bytes(size)}${ready ? "" : " (loading)"}`)), others > 0 && h("span", {}, `and ${others} more`))),
  ];
}

function showInstances(main) {
  const tiles = h("dl", { class: "tiles" });
  const places = h("div");
  const below = h("div");
  main.append(h("h1", {}, "Instances"), tiles, places, below);
  const rows = new Map();
  let queue = [];
  let frame = 0;

  function fill() {
    const until = performance.now() + FRAME_MS;
    while (queue.length && performance.now() < until) {
      const [row, one] = queue.shift();
      const open = row.querySelector("details")?.open;
      row.replaceChildren(...place(one).filter(Boolean));
      if (open && row.querySelector("details")) row.querySelector("details").open = true;
    }
    frame = queue.length ? requestAnimationFrame(fill) : 0;
  }

  return {
    update() {
      const now = mesh.now;
      if (!now) return;
      const sum = (name) => now.instances.reduce((total, one) => total + one[name], 0);
      const tile = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
      tiles.replaceChildren(
        tile("instances", numbers.format(now.instances.length)), tile("memory", `${bytes(sum("used"))} of ${bytes(sum("capacity"))}`),
        tile("loaded copies", numbers.format(sum("copies"))), tile("loads", numbers.format(sum("loads"))),
        tile("calls that wait here", numbers.format(now.held.calls)), tile("version", now.version));
      queue = [];
      const seen = new Set();
      for (const one of now.instances) {
        seen.add(one.id);
        const text = JSON.stringify(one);
        let row = rows.get(one.id);
        if (!row) {
          row = { at: h("section", { class: "place", "aria-label": one.id }), text: "" };
          rows.set(one.id, row);
          places.append(row.at);
        }
        if (row.text !== text) queue.push([row.at, one]);
        row.text = text;
      }
      for (const [id, row] of rows) {
        if (!seen.has(id)) {
          row.at.remove();
          rows.delete(id);
        }
      }
      frame ||= requestAnimationFrame(fill);
      const gone = mesh.events.filter((event) => event.kind === "evicted").slice(-20).reverse();
      below.replaceChildren(
        h("h2", {}, "Loads"),
        now.loads.length ? table([
          { name: "model", of: (one) => linkTo(one.model) }, { name: "at", of: (one) => one.instance }, { name: "since", num: true, of: (one) => ago(one.since_ms) },
          { name: "size", num: true, of: (one) => bytes(one.size) }, { name: "calls that wait", num: true, of: (one) => one.calls }, { name: "stage", of: (one) => one.stage },
        ], now.loads) : h("p", { class: "soft" }, "Nothing is being loaded."),
        h("h2", {}, "Calls that wait"),
        now.waiting.length ? table([{ name: "model", of: (one) => linkTo(one.model) }, { name: "calls", num: true, of: (one) => one.calls }], now.waiting) : h("p", { class: "soft" }, "No call waits for a load at this instance."),
        h("h2", {}, "Evictions"),
        gone.length ? eventTable(gone) : h("p", { class: "soft" }, "This instance has evicted nothing lately."));
    },
    leave: () => cancelAnimationFrame(frame),
  };
}

// --- events ---------------------------------------------------------------------------------------

function eventTable(events) {
  return table([
    { name: "time", of: (event) => at(event.ms ?? event.time_ms) }, { name: "event", of: (event) => words(event.kind) },
    { name: "model", of: (event) => { const model = event.model ?? event.model_id; return model ? linkTo(model) : ""; } },
    { name: "reason", of: (event) => words(event.reason ?? "") },
    { name: "detail", of: (event) => [event.detail ?? "", (event.cause ?? event.cause_model_id) ? [" for ", linkTo(event.cause ?? event.cause_model_id)] : "", Number(event.times) > 1 ? ` (${event.times} times)` : ""] },
    { name: "at", of: (event) => event.instance_id ?? "" },
  ], events);
}

function showEvents(main) {
  const filter = h("input", { type: "search", placeholder: "model, event or reason", "aria-label": "Filter" });
  const pause = h("button", { type: "button", "aria-pressed": "false" }, "Pause");
  const list = h("div");
  main.append(h("h1", {}, "Events of this instance"), h("p", { class: "row" }, filter, pause), list);
  let before = "";
  const update = () => {
    if (pause.getAttribute("aria-pressed") === "true") return;
    const wanted = filter.value.toLowerCase();
    const found = mesh.events.filter((event) => !wanted || `${event.kind} ${event.model} ${event.reason} ${event.detail}`.toLowerCase().includes(wanted)).slice(-100).reverse();
    const which = `${found[0]?.n} ${found.length} ${wanted}`;
    if (which === before && list.children.length) return;
    before = which;
    list.replaceChildren(found.length ? eventTable(found) : h("p", { class: "soft" }, "Nothing of that kind has happened."));
  };
  pause.addEventListener("click", () => {
    pause.setAttribute("aria-pressed", String(pause.getAttribute("aria-pressed") !== "true"));
    update();
  });
  filter.addEventListener("input", update);
  return { update };
}

// --- models ---------------------------------------------------------------------------------------

function stateOf(model) {
  const copies = model.copies ?? [];
  if (copies.some((copy) => copy.state === "LOADED")) return "loaded";
  if (copies.length) return "loading";
  return model.failures?.length ? "failed" : "not loaded";
}

function showModels(main) {
  const prefix = h("input", { type: "search", placeholder: "beginning of the id", "aria-label": "Beginning of the id" });
  const more = h("button", { type: "button", hidden: true }, "More");
  const list = h("div");
  const said = saying();
  main.append(h("h1", {}, "Models"), h("p", { class: "row" }, prefix), list, h("p", { class: "row" }, more), said);
  let models = [];
  let token = "";
  let sorted = null;
  let asked = 0;
  const size = (model) => (model.copies ?? []).reduce((most, copy) => Math.max(most, Number(copy.size_bytes ?? 0)), 0);
  const columns = [
    { name: "model", by: (model) => model.id, of: (model) => linkTo(model.id) }, { name: "type", by: (model) => model.type, of: (model) => model.type },
    { name: "state", by: stateOf, of: (model) => h("span", { class: { loaded: "good", failed: "bad" }[stateOf(model)] }, stateOf(model)) },
    { name: "copies", num: true, by: (model) => model.copies?.length ?? 0, of: (model) => model.copies?.length ?? 0 },
    { name: "size", num: true, by: size, of: (model) => (size(model) ? bytes(size(model)) : "") },
    { name: "last use", num: true, by: (model) => -Number(model.last_use_ms ?? 0), of: (model) => ago(model.last_use_ms) },
  ];

  function draw() {
    const rows = sorted ? models.toSorted((a, b) => { const [x, y] = [sorted.by(a), sorted.by(b)]; return x < y ? -1 : Number(x > y); }) : models;
    list.replaceChildren(table(columns, rows));
    list.querySelectorAll("th").forEach((head, index) => {
      const column = columns[index];
      head.setAttribute("aria-sort", sorted === column ? "ascending" : "none");
      head.replaceChildren(h("button", { type: "button", onclick: () => { sorted = sorted === column ? null : column; draw(); list.querySelectorAll("th button")[index].focus(); } }, column.name, sorted === column ? " ▴" : ""));
    });
    more.hidden = !token;
  }

  async function load(next) {
    const number = ++asked;
    await work(said, "reading", async () => {
      const answer = await ask("ListModels", { page_size: 100, page_token: next ? token : "", prefix: prefix.value });
      if (number !== asked) return "";
      models = [...(next ? models : []), ...(answer.models ?? [])];
      token = answer.next_page_token ?? "";
      draw();
      return models.length ? `${numbers.format(models.length)} models${token ? ", and more" : ""}` : "no model that you may see";
    });
  }

  more.addEventListener("click", () => load(true));
  prefix.addEventListener("input", () => load(false));
  load(false);
}

function planOf(plan) {
  if (!plan) return [];
  if (!plan.instance_id) return [h("p", { class: "bad" }, `One more copy would go nowhere: ${plan.refusal}`)];
  return [
    h("p", {}, "One more copy would go to ", h("strong", {}, plan.instance_id), ` (${words(plan.reason)}).`, plan.refusal && h("span", { class: "bad" }, ` It would be refused: ${plan.refusal}`)),
    plan.victims?.length ? table([{ name: "would leave", of: (one) => linkTo(one.model_id) }, { name: "size", num: true, of: (one) => bytes(one.size_bytes) }, { name: "last use", num: true, of: (one) => ago(one.last_use_ms) }, { name: "why", of: (one) => words(one.reason) }], plan.victims)
      : h("p", { class: "soft" }, "Nothing would have to leave for it."),
  ];
}

const placesTable = (places) => table([{ name: "instance", of: (one) => one.instance_id }, { name: "is to it", of: (one) => words(one.verdict) }, { name: "detail", of: (one) => one.detail ?? "" }], places ?? []);

function showModel(main, id) {
  const said = saying();
  const facts = h("div");
  const button = (name, run) => h("button", { type: "button", onclick: () => work(said, name, run).then((done) => done && read()) }, name);
  const least = h("input", { type: "number", min: 0, size: 4 });
  const most = h("input", { type: "number", min: 0, size: 4 });
  const pinned = h("input", { type: "checkbox" });
  const dry = h("button", { type: "button", onclick: () => read(true) }, "What would one more copy do?");
  const copies = h("form", { class: "row" }, h("label", {}, "least copies", least), h("label", {}, "most (0: any)", most), h("label", {}, "pinned", pinned), h("button", {}, "Set"));
  copies.addEventListener("submit", (event) => {
    event.preventDefault();
    work(said, "setting", () => ask("SetCopies", { model_id: id, minimum: Number(least.value), maximum: Number(most.value), pinned: pinned.checked }).then(() => "set")).then((done) => done && read());
  });
  main.append(h("h1", {}, id),
    h("p", { class: "row" }, button("Load", () => ask("ensureLoaded", { modelId: id }).then((answer) => `it is ${words(answer.status ?? "?").toLowerCase()}`)),
      button("Unload", () => ask("UnloadModel", { model_id: id }).then((answer) => `${answer.instance_ids?.length ?? 0} copies unload`)), dry,
      h("a", { href: `#/try/${encodeURIComponent(id)}` }, "Try a call")),
    copies, said, facts);

  async function read(dryRun = false) {
    await work(said, "asking all instances", async () => {
      const answer = await ask("Explain", { model_id: id, dry_run: dryRun });
      const model = answer.model ?? {};
      [least.value, most.value, pinned.checked] = [model.minimum_copies ?? 0, model.maximum_copies ?? 0, model.pinned ?? false];
      facts.replaceChildren(
        h("p", {}, h("strong", {}, stateOf(model)), ` · type ${model.type} · ${model.path || "no path"} · a load asks for ${bytes(answer.size_bytes)} (${words(answer.size_source)}) · used ${ago(model.last_use_ms)}`, answer.vmodel_id && ` · vmodel ${answer.vmodel_id} stands for ${model.id}`),
        ...(model.failures ?? []).map((failure) => h("p", { class: "bad" }, `failed at ${failure.instance_id}: ${failure.message}`)),
        dryRun ? h("section", { "aria-label": "Dry run" }, h("h2", {}, "One more copy"), planOf(answer.plan)) : "",
        h("h2", {}, "Where it is, and why not elsewhere"), placesTable(answer.places),
        h("h2", {}, "What happened"), answer.events?.length ? eventTable(answer.events.toReversed()) : h("p", { class: "soft" }, "Nothing that an instance remembers."),
        answer.silent_instance_ids?.length ? h("p", { class: "bad" }, `no answer from ${answer.silent_instance_ids.join(", ")}`) : "");
      return dryRun ? "this is what would happen; nothing was loaded" : "";
    });
  }

  let heard = mesh.events.at(-1)?.n ?? 0;
  read();
  return {
    update() {
      const fresh = mesh.events.some((event) => event.n > heard && event.model === id);
      heard = mesh.events.at(-1)?.n ?? heard;
      if (fresh) read();
    },
  };
}

// --- vmodels --------------------------------------------------------------------------------------

function rolloutOf(rollout) {
  const steps = rollout.steps.length;
  const now = rollout.state === "RUNNING" ? `step ${(rollout.step ?? 0) + 1} of ${steps}, ${rollout.steps[rollout.step ?? 0]} %` : words(rollout.state).toLowerCase();
  return ["rollout of ", linkTo(rollout.model_id), `: ${now}`, rollout.why && h("span", { class: "soft" }, h("br"), rollout.why)];
}

const ENDS = ["answered", "equal", "different", "failed", "cold", "dropped", "stream"];

/** What the instances counted of a vmodel whose model is rolled out, or that has a shadow. */
function countsOf(vmodel, told) {
  return [
    h("h2", {}, `Counts of ${vmodel}`),
    told.verdict && h("p", {}, told.verdict),
    told.models?.length && table([{ name: "model", of: (one) => linkTo(one.model_id) }, { name: "calls", num: true, of: (one) => numbers.format(one.calls ?? 0) }, { name: "failed", num: true, of: (one) => numbers.format(one.failed ?? 0) },
      { name: "95 % within", num: true, of: (one) => `${((one.p95_us ?? 0) / 1000).toPrecision(3)} ms` }], told.models, "in this step of the rollout"),
    told.shadows?.length && table([{ name: "shadow", of: (one) => linkTo(one.model_id) }, ...ENDS.map((end) => ({ name: end, num: true, of: (one) => numbers.format(one[end] ?? 0) }))], told.shadows, "copies of calls"),
    told.silent_instance_ids?.length && h("p", { class: "bad" }, `no answer from ${told.silent_instance_ids.join(", ")}`),
    !told.models?.length && !told.shadows?.length && h("p", { class: "soft" }, "Nothing is counted yet."),
  ].filter(Boolean);
}

const READ_AGAIN_MS = 5000;

function showVModels(main) {
  const list = h("div");
  const counts = h("section", { "aria-label": "Counts" });
  let counted;
  const said = saying();
  const name = h("input", { required: true });
  const target = h("input", { required: true });
  const percent = h("input", { type: "number", min: 0, max: 100, value: 100 });
  const form = h("form", { class: "row" }, h("label", {}, "vmodel", name), h("label", {}, "model", target), h("label", {}, "percent of the calls", percent), h("button", {}, "Move"));
  main.append(h("h1", {}, "VModels"), list, counts, h("h2", {}, "Move the calls of a vmodel"),
    h("p", { class: "soft" }, "With 100 percent the vmodel moves to the model once that is loaded as often as the one before. With less the model gets a share of the calls; 0 ends all shares."), form, said);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const share = Number(percent.value);
    work(said, "moving", async () => {
      if (share === 100) await ask("setVModel", { vModelId: name.value, targetModelId: target.value, updateOnly: true });
      else await ask("SetSplit", { vmodel_id: name.value, split: share ? [{ model_id: target.value, percent: share }] : [] });
      return share === 100 ? "it moves when the target is loaded" : "the shares are set";
    }).then((done) => done && read());
  });

  async function count(vmodel) {
    counted = vmodel;
    try {
      counts.replaceChildren(...countsOf(vmodel.id, await ask("CountVModel", { vmodel_id: vmodel.id })));
    } catch (error) {
      counts.replaceChildren(h("p", { class: "bad" }, error.message));
    }
  }

  let readAt = 0;
  async function read() {
    readAt = performance.now();
    try {
      const { vmodels = [] } = await ask("ListVModels", { page_size: 1000 });
      list.replaceChildren(vmodels.length ? table([
        { name: "vmodel", of: (one) => h("button", { type: "button", onclick: () => { name.value = one.id; target.focus(); } }, one.id) },
        { name: "calls go to", of: (one) => [linkTo(one.active_model_id), (one.split ?? []).map((share) => [h("br"), `${share.percent} % to `, linkTo(share.model_id)]), one.fallback_model_id && [h("br"), "while it is cold or fails: ", linkTo(one.fallback_model_id)]] },
        { name: "rollout and shadow", of: (one) => [one.rollout && [rolloutOf(one.rollout), h("br")], one.shadow && [`copies of ${one.shadow.percent} % to `, linkTo(one.shadow.model_id), one.shadow.compares ? ", answers are compared" : "", h("br")],
          (one.rollout || one.shadow) && h("button", { type: "button", onclick: () => count(one) }, "Counts")] },
        { name: "other versions", of: (one) => [(one.labels ?? []).map((label) => [`${label.label}: `, linkTo(label.model_id), h("br")]), (one.kept_model_ids ?? []).map((model) => [linkTo(model), h("br")])] },
        { name: "moves to", of: (one) => (one.target_model_id && one.target_model_id !== one.active_model_id ? [linkTo(one.target_model_id), one.failed ? h("span", { class: "bad" }, " (cannot be loaded)") : ""] : "") },
        { name: "owner", of: (one) => one.owner ?? "" },
      ], vmodels) : h("p", { class: "soft" }, "There is no vmodel that you may see."));
    } catch (error) {
      list.replaceChildren(h("p", { class: "bad" }, error.message));
    }
  }

  let heard = mesh.events.at(-1)?.n ?? 0;
  read();
  return {
    update() {
      const fresh = mesh.events.some((event) => event.n > heard && /^(vmodel|split_|fallback_|shadow_set|labels_|rollout_)/.test(event.kind));
      heard = mesh.events.at(-1)?.n ?? heard;
      // What another instance was told is no event of this one.
      if (!fresh && performance.now() - readAt < READ_AGAIN_MS) return;
      read();
      if (counted) count(counted);
    },
  };
}

// --- dry run, and a call --------------------------------------------------------------------------

function showFit(main) {
  const size = h("input", { type: "number", min: 1, value: 100, required: true });
  const type = h("input", { placeholder: "default" });
  const said = saying();
  const answer = h("div");
  const form = h("form", { class: "row" }, h("label", {}, "size in MiB", size), h("label", {}, "type", type), h("button", {}, "Where would it go?"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    work(said, "asking", async () => {
      const told = await ask("Fit", { size_bytes: Math.round(Number(size.value) * 2 ** 20), type: type.value });
      answer.replaceChildren(...planOf(told.plan), h("h2", {}, "Each instance"), placesTable(told.places));
      return "";
    });
  });
  main.append(h("h1", {}, "Dry run of a new model"), form, said, answer);
}

const ZERO = { BOOL: false, BYTES: "" };

function example(metadata) {
  const inputs = (metadata.inputs ?? []).map(({ name, datatype, shape }) => {
    const dims = shape.map((size) => (Number(size) > 0 ? Number(size) : 1));
    const count = Math.min(dims.reduce((all, size) => all * size, 1), 4096);
    return { name, datatype, shape: dims, data: Array(count).fill(ZERO[datatype] ?? 0) };
  });
  return JSON.stringify({ inputs }, null, 1);
}

function showTry(main, id) {
  const name = h("input", { required: true, value: id });
  const body = h("textarea", { spellcheck: "false", "aria-label": "Request" });
  const said = saying();
  const answer = h("pre", { hidden: true, tabindex: 0, "aria-label": "Answer" });
  const curl = h("pre", { hidden: true, tabindex: 0, "aria-label": "The same with curl" });
  const path = () => `../v2/models/${encodeURIComponent(name.value)}`;
  const form = h("form", {}, h("p", { class: "row" }, h("label", {}, "model or vmodel", name), h("button", { type: "button", onclick: describe }, "Make a request"), h("button", {}, "Send")), body);
  main.append(h("h1", {}, "Try a call"), form, said, answer, curl);

  function describe() {
    work(said, "reading the signature (this loads the model)", async () => {
      body.value = example(await (await request(path())).json());
      return "";
    });
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const began = performance.now();
    curl.hidden = false;
    curl.textContent = `curl ${new URL(`${path()}/infer`, location.href)} -d '${body.value.replaceAll("'", "'\\''")}'`;
    work(said, "calling", async () => {
      const told = await (await request(`${path()}/infer`, { method: "POST", body: body.value, headers: { "content-type": "application/json" } })).text();
      answer.hidden = false;
      answer.textContent = told.length > 20000 ? `${told.slice(0, 20000)} …` : told;
      return `answered in ${(performance.now() - began).toFixed(1)} ms`;
    });
  });
  if (id) describe();
}

export const VIEWS = {
  "": { title: "Instances", show: showInstances },
  models: { title: "Models", show: showModels },
  model: { title: "Model", show: showModel, under: "models" },
  vmodels: { title: "VModels", show: showVModels },
  events: { title: "Events", show: showEvents },
  fit: { title: "Dry run", show: showFit },
  try: { title: "Try a call", show: showTry },
};
