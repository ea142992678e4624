"use strict";
// The page: one form a task, drawn from the table below; nothing is kept, nothing is fetched but this server's own routes.

const $ = (id) => document.getElementById(id);
const el = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") node.textContent = value;
    else if (key === "style") for (const [name, entry] of Object.entries(value)) node.style.setProperty(name, entry);
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
};
const percent = (value) => (100 * value).toFixed(1) + " %";
const hue = (name) => [...name].reduce((sum, c) => (sum * 31 + c.codePointAt(0)) % 360, 7);
// Places are code points, JavaScript counts UTF-16 units.
const slice = (points, start, end) => points.slice(start, end).join("");
const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);

const RIGHT_TO_LEFT = /^[\p{Script=Arabic}\p{Script=Hebrew}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}]/u;
const direction = (text) => (RIGHT_TO_LEFT.test(text.match(/\p{L}/u)?.[0] ?? "") ? "rtl" : "ltr");

// Lengths are relative to the longest bar. The list runs as its first text does, so that bars begin at their names.
function bars(items) {
  const top = Math.max(...items.map((item) => item.value), 1e-9);
  const list = el("ol", { class: "bars", dir: direction(items[0]?.long ?? items[0]?.name ?? "") });
  for (const { name, value, shown, long } of items) {
    const track = el("div", { class: "track" }, el("i", { style: { width: Math.max(0, (100 * value) / Math.max(top, 1e-9)) + "%" } }));
    const row = el("li", {}, el("span", { class: "name", dir: "auto", text: name }), track, el("span", { class: "value", text: shown ?? percent(value) }));
    if (long) row.append(el("span", { class: "long", dir: "auto", text: long }));
    list.append(row);
  }
  return list;
}

function marked(text, spans) {
  const points = [...text];
  const box = el("p", { class: "text", dir: "auto" });
  let at = 0;
  for (const span of spans) {
    if (span.start < at) continue;
    box.append(slice(points, at, span.start));
    box.append(el("mark", { style: { "--hue": hue(span.label ?? "") } }, slice(points, span.start, span.end),
      ...(span.label ? [el("small", { text: span.label })] : [])));
    at = span.end;
  }
  box.append(slice(points, at, points.length));
  return box;
}

function heat(rows, columns, values) {
  const head = el("tr", {}, el("th"), ...columns.map((_, n) => el("th", { text: n + 1, scope: "col" })));
  const table = el("table", { class: "heat" }, el("thead", {}, head));
  rows.forEach((name, i) => {
    const cells = values[i].map((value) => el("td", { text: value.toFixed(2), style: { background: `rgb(var(--heat) / ${Math.max(0, Math.min(1, value)) * 0.6})` } }));
    table.append(el("tr", {}, el("th", { scope: "row" }, el("span", { class: "number", text: i + 1 }), el("bdi", { text: name })), ...cells));
  });
  return table;
}

const SIMILAR = ["The weather is nice today.\nIl fait beau aujourd'hui.\nالطقس جميل اليوم.\nआज मौसम अच्छा है।\n今天天气很好。\nวันนี้อากาศดี\nI would like a cup of coffee."];
const ARTICLE = "Marie Curie was born in Warsaw in 1867. She moved to Paris to study physics and won the Nobel Prize in 1903.";
// What a translation begins from, by the language's code.
const HELLO = {
  ar: "صباح الخير! كيف حالك؟", bg: "Добро утро! Как си?", cs: "Dobré ráno! Jak se máš?", de: "Guten Morgen! Wie geht es dir?", el: "Καλημέρα! Τι κάνεις;",
  en: "Good morning! How are you?", es: "¡Buenos días! ¿Cómo estás?", fi: "Hyvää huomenta! Mitä kuuluu?", fr: "Bonjour ! Comment vas-tu ?", hi: "सुप्रभात! आप कैसे हैं?",
  it: "Buongiorno! Come stai?", ja: "おはようございます。お元気ですか。", nl: "Goedemorgen! Hoe gaat het?", pl: "Dzień dobry! Jak się masz?", pt: "Bom dia! Como está?",
  ro: "Bună dimineața! Ce mai faci?", ru: "Доброе утро! Как дела?", tr: "Günaydın! Nasılsın?", zh: "早上好！你好吗？",
};
const sides = (side) => [...new Set((info.directions ?? []).map((pair) => pair[side]))];
const TASKS = {
  "fill-mask": {
    title: "Fill masks", fields: [["inputs", "Texts with <mask>, one a line", 3]],
    examples: ["Paris is the <mask> of France.", "Berlin ist die <mask> von Deutschland.", "القاهرة هي <mask> مصر.", "नई दिल्ली भारत की <mask> है।", "北京是中国的<mask>。", "กรุงเทพเป็น<mask>ของประเทศไทย"].map((x) => [x]),
    body: (v) => ({ inputs: lines(v.inputs) }),
    show: (answers) => answers.flatMap((one) => one.masks.flatMap((mask) => [
      el("p", { class: "text", dir: "auto", text: one.text }),
      bars(mask.map((m) => ({ name: m.token.replaceAll("▁", " ").replace("</w>", "").trim() || m.token, value: m.probability, long: m.text }))),
    ])),
  },
  similarity: {
    title: "Compare", route: "/embed", task: "embed", fields: [["inputs", "Texts, one a line", 7]], examples: [SIMILAR],
    body: (v) => ({ inputs: lines(v.inputs) }),
    show: (vectors, v) => [heat(lines(v.inputs), vectors, vectors.map((a) => vectors.map((b) => a.reduce((sum, x, i) => sum + x * b[i], 0))))],
  },
  rerank: {
    title: "Rerank", fields: [["query", "Query", 1], ["texts", "Documents, one a line", 5]],
    examples: [["How do I renew my passport?", "Comment renouveler son passeport\nBest pizza in town\nRenovar el pasaporte en línea\n护照更新流程\nمواعيد القطارات"]],
    body: (v) => ({ query: v.query, texts: lines(v.texts) }),
    show: (found, v) => [bars(found.map((one) => ({ name: String(one.index + 1), value: one.score, shown: one.score.toFixed(3), long: lines(v.texts)[one.index] })))],
  },
  classify: {
    title: "Classify", fields: [["inputs", "Texts, one a line", 3]], examples: [["This film was wonderful."], ["Ce film était merveilleux."], ["كان الفيلم رائعا."]],
    body: (v) => ({ inputs: lines(v.inputs) }),
    show: (found) => found.flatMap((one) => [
      el("p", { class: "text", dir: "auto", text: [one.text].flat().join(" ⁄ ") }),
      one.labels ? bars(one.labels.map((l) => ({ name: l.label, value: l.probability }))) : el("p", { text: String(one.value) })]),
  },
  tag: {
    title: "Tag", fields: [["inputs", "Texts, one a line", 3]], examples: [[ARTICLE], ["ولدت ماري كوري في وارسو."], ["मैरी क्यूरी का जन्म वारसॉ में हुआ था।"], ["居里夫人出生于华沙。"], ["มารี กูรี เกิดที่กรุงวอร์ซอ"]],
    body: (v) => ({ inputs: lines(v.inputs) }),
    show: (found) => found.flatMap((one) => [marked(one.text, one.spans), ...(one.spans.length ? [] : [el("p", { class: "quiet", text: "No span has a label." })])]),
  },
  answer: {
    title: "Answer", fields: [["question", "Question", 1], ["context", "Context", 5]],
    examples: [["Where was Marie Curie born?", ARTICLE], ["Où est née Marie Curie ?", ARTICLE], ["أين ولدت ماري كوري؟", "ولدت ماري كوري في وارسو ثم انتقلت إلى باريس."]],
    body: (v) => ({ question: v.question, context: v.context, top_k: 3 }),
    show: (found, v) => found.flatMap((one) => {
      const best = one.answers[0];
      return [marked(v.context, best && best.end > best.start ? [{ start: best.start, end: best.end }] : []),
        bars(one.answers.map((a) => ({ name: a.text || "(no answer)", value: a.probability })))];
    }),
  },
  choose: {
    title: "Choose", fields: [["prompt", "Prompt", 2], ["choices", "Choices, one a line", 3]],
    examples: [["The man turned on the tap.", "Water flowed out.\nThe light went out."], ["El hombre abrió el grifo.", "Salió agua.\nSe apagó la luz."]],
    body: (v) => ({ prompt: v.prompt, choices: lines(v.choices) }),
    show: (found, v) => [bars(found.probabilities.map((p, i) => ({ name: lines(v.choices)[i], value: p })))],
  },
  translate: {
    title: "Translate", fields: [["inputs", "Texts, one a line", 3], ["source", "From", 1, () => sides(0)], ["target", "To", 1, () => sides(1)]], examples: [["", "", ""]],
    body: (v) => ({ inputs: lines(v.inputs), source: v.source.trim() || null, target: v.target.trim() || null }),
    show: (found) => found.flatMap((one) => [
      el("p", { class: "quiet", dir: "auto", text: one.text }),
      el("p", { class: "text", dir: "auto", ...(one.target ? { lang: one.target } : {}), text: one.translation })]),
  },
  tokenize: {
    title: "Tokens", fields: [["inputs", "Text", 3]], examples: [["Internationalisation, ภาษาไทย, 你好世界, مرحبا بالعالم 👩‍👩‍👧"], ["नमस्ते दुनिया"]],
    body: (v) => ({ inputs: v.inputs }),
    show: (found) => found.map((tokens) => el("p", { class: "tokens", dir: "auto" }, ...tokens.map((token, n) => el("span", {
      // What has a direction of its own does not decide that of the text.
      ...(/^<.+>$/.test(token.token) ? { dir: "ltr" } : {}),
      style: { "--hue": (n * 67) % 360 }, title: `${token.id}: ${token.start}–${token.stop}`, class: token.special ? "special" : "", text: token.token.replaceAll("▁", "▁\u2060"),
    })))),
  },
};

let task = "fill-mask", info = {}, run = 0;

function values() {
  return Object.fromEntries(TASKS[task].fields.map(([name]) => [name, $("field-" + name).value]));
}

function fill(example) {
  TASKS[task].fields.forEach(([name], n) => { $("field-" + name).value = example[n] ?? ""; });
}

function open(name, focus) {
  task = name;
  for (const tab of $("tabs").children) {
    const chosen = tab.dataset.task === name;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    if (chosen && focus) tab.focus();
  }
  const { fields, examples } = TASKS[name];
  $("fields").replaceChildren(...fields.map(([field, label, rows, choices]) => {
    const known = choices?.() ?? [], id = "field-" + field;
    const needed = choices ? {} : { required: "" };
    const input = known.length ? el("select", { id }, ...known.map((value) => el("option", { value, text: value })))
      : el("textarea", { id, dir: "auto", rows, ...needed, spellcheck: "false" });
    return el("label", { class: "field" }, el("span", { text: label }), input);
  }));
  $("examples").replaceChildren(...examples.map((example, n) => el("option", { value: n, text: [...(lines(example[0])[0] ?? "")].slice(0, 32).join("") + (example.length === 3 ? ` ${example[1]} → ${example[2]}` : "") })));
  fill(examples[0]);
  $("result").replaceChildren();
  $("latency").textContent = "";
}

async function ask() {
  const mine = ++run, shown = task, spec = TASKS[task], entered = values();
  const headers = { "Content-Type": "application/json" };
  if ($("key").value) headers.Authorization = "Bearer " + $("key").value;
  $("go").disabled = true;
  $("latency").textContent = "…";
  const started = performance.now();
  let nodes;
  try {
    const response = await fetch(spec.route ?? "/" + task, { method: "POST", headers, body: JSON.stringify({ ...spec.body(entered), model: $("model").value }) });
    const found = await response.json();
    if (!response.ok) throw new Error(found.error?.message ?? found.error ?? response.statusText);
    nodes = spec.show(found, entered);
  } catch (error) {
    nodes = [el("p", { class: "error", role: "alert", text: error.message })];
  }
  if (mine !== run) return;
  $("go").disabled = false;
  if (shown !== task) return;
  $("latency").textContent = `${Math.round(performance.now() - started)} ms`;
  $("result").replaceChildren(...nodes);
}

async function describe() {
  const headers = $("key").value ? { Authorization: "Bearer " + $("key").value } : {};
  const chosen = $("model").value;
  try {
    const response = await fetch("/info" + (chosen ? "?model=" + encodeURIComponent(chosen) : ""), { headers });
    info = await response.json();
    if (!response.ok) throw new Error(info.error ?? response.statusText);
  } catch (error) {
    $("about").textContent = error.message;
    return;
  }
  if (!$("model").options.length) $("model").replaceChildren(...info.models.map((name) => el("option", { text: name })));
  $("about").textContent = `${info.architecture}, ${info.model_dtype} on ${info.device}, up to ${info.max_input_length} tokens`;
  if (info.directions?.length) {
    TASKS.translate.examples = info.directions.map(([from, to]) => [HELLO[from] ?? "", from, to]);
    if (task === "translate") open(task);
  }
  let first = null;
  for (const tab of $("tabs").children) {
    const able = info.tasks.includes(TASKS[tab.dataset.task].task ?? tab.dataset.task) || tab.dataset.task === "tokenize";
    tab.disabled = !able;
    tab.title = able ? "" : "this model has no head for it";
    first ??= able ? tab.dataset.task : null;
  }
  if ($("tabs").querySelector(`[data-task="${task}"]`).disabled) open(first);
}

for (const [name, { title }] of Object.entries(TASKS)) {
  const tab = el("button", { role: "tab", type: "button", "data-task": name, "aria-controls": "panel", text: title });
  tab.addEventListener("click", () => open(name));
  $("tabs").append(tab);
}
$("tabs").addEventListener("keydown", (event) => {
  const able = [...$("tabs").children].filter((tab) => !tab.disabled);
  const at = able.findIndex((tab) => tab.dataset.task === task);
  const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  open(able.at(next % able.length).dataset.task, true);
});
$("form").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
$("form").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); ask(); } });
$("examples").addEventListener("change", () => { fill(TASKS[task].examples[$("examples").value]); ask(); });
$("model").addEventListener("change", describe);
$("key").addEventListener("change", describe);
open(task);
describe();
