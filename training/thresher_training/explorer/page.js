"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const names = data.decision.labels;
const collator = new Intl.Collator(undefined, { numeric: true });

/* ---- a label: its thresholds (edges) and the counts at and above each ---- */

const base = [...new Set([...data.linear, ...data.logit])].sort((a, b) => a - b);
const labels = names.map((name, at) => {
  const bins = data.bins[at], report = data.reports[at];
  const edges = [...base, ...bins.edges].sort((a, b) => a - b);
  const label = {
    at, name, shown: visible(name), edges, bins, report,
    tp: sums(bins.positives), fp: sums(bins.negatives),
    validated: edges.indexOf(data.decision.thresholds[at]),
    shared: edges.indexOf(data.shared[at]),
    half: edges.indexOf(0.5),
  };
  label.support = label.tp[0] + bins.unscored[0];
  label.negatives = label.fp[0] + bins.unscored[1];
  label.chosen = label.validated;
  return label;
});

function sums(counts) { // from the right: how many at or above each edge
  const found = counts.slice();
  for (let i = found.length - 2; i >= 0; i--) found[i] += found[i + 1];
  return found;
}

function numbers(label, at = label.chosen) {
  const tp = label.tp[at], fp = label.fp[at];
  const fn = label.support - tp, tn = label.negatives - fp;
  const known = label.support + label.negatives;
  return {
    tp, fp, fn, tn,
    precision: tp + fp ? tp / (tp + fp) : null,
    recall: label.support ? tp / label.support : null,
    f1: tp + fp + fn ? (2 * tp) / (2 * tp + fp + fn) : 0, // as the engine has it
    rate: known ? (tp + fp) / known : null,
  };
}

/* ---- text ---- */

function visible(text) { // on one line, with nothing hidden
  const signs = { "\n": "\u21b5", "\t": "\u21e5" };
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, (c) => signs[c] ?? "\ufffd");
}
const percent = (x) => `${+(100 * x).toPrecision(3)} %`;
const brief = (x) => (x > 0 && x < 0.001 ? "<0.1 %" : x > 0.999 && x < 1 ? ">99.9 %" : `${+(100 * x).toFixed(1)} %`);
const metricName = (text) => visible(text).replace(/^f(?=\d)/, "F");
const share = (x, digits = 3) => (x === null ? "–" : x.toFixed(digits));
const whole = (x) => Math.round(x).toLocaleString("en");
const rounded = (x) => (x >= 0.001 || x === 0 ? String(+x.toFixed(4)) : x.toExponential(1));
const perDay = (x) => (x >= 10 ? whole(x) : x >= 0.1 || x === 0 ? String(+x.toFixed(1)) : "under 0.1");
function shellQuoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : "'" + text.replaceAll("'", "'\\''") + "'";
}
const changed = () => labels.filter((label) => label.chosen !== label.validated);
function setLine() {
  return changed().map((label) => "--set " + shellQuoted(`${label.name}=${label.edges[label.chosen]}`)).join(" ");
}
function decisionJson() {
  const thresholds = labels.map((label) => label.edges[label.chosen]);
  const lines = Object.entries({ ...data.decision, thresholds }).map(([key, value]) => `  "${key}": ${JSON.stringify(value)}`);
  return `{\n${lines.join(",\n")}\n}\n`;
}

/* ---- drawing: strings of SVG that hold numbers and our own words only ---- */

const LOGIT_END = 9.5;
let current = labels[0];
const onLogit = () => $("logit-axis").checked;
const position = (p) => { // of a probability, from 0 to 1 along the axis
  if (!onLogit()) return p;
  const z = Math.log(p) - Math.log1p(-p);
  return (Math.max(-LOGIT_END, Math.min(LOGIT_END, z)) + LOGIT_END) / (2 * LOGIT_END);
};
const LEFT = 6, RIGHT = 6;

const halfHeight = () => ($("detail").clientWidth < 690 ? 88 : Math.max(88, Math.min(190, (innerHeight - 544) / 2)));

function drawHistogram() {
  const box = $("histogram"), width = Math.max(260, box.clientWidth), room = width - LEFT - RIGHT;
  const top = 20, half = halfHeight(), middle = top + half, height = middle + half + 30;
  const x = (p) => LEFT + room * position(p);
  const grid = onLogit() ? data.logit : data.linear;
  const ends = grid.map((edge) => current.edges.indexOf(edge));
  const log = $("log-counts").checked, size = (n) => (log ? Math.log10(1 + n) : n);
  const bars = (above, sign, kind) => {
    const counts = ends.map((end, i) => above[end] - (i + 1 < ends.length ? above[ends[i + 1]] : 0));
    counts[counts.length - 2] += counts.pop(); // exactly 1 is drawn with the bin before
    const most = Math.max(1, ...counts);
    const rects = counts.map((n, i) => {
      if (!n) return "";
      const tall = Math.max(1.5, (half - 16) * size(n) / size(most)), from = x(grid[i]);
      const wide = Math.max(1, x(grid[i + 1]) - from - 1);
      return `<rect x="${from.toFixed(1)}" width="${wide.toFixed(1)}" y="${(sign > 0 ? middle - tall - 0.5 : middle + 0.5).toFixed(1)}" height="${tall.toFixed(1)}"/>`;
    }).join("");
    const y = sign > 0 ? top + 14 : middle + half - 16;
    return `<g class="${kind} pale" clip-path="url(#no)">${rects}</g><g class="${kind}" clip-path="url(#yes)">${rects}</g>` +
      `<line class="axis" x1="${LEFT}" x2="${width - RIGHT}" y1="${sign > 0 ? top + 16 : middle + half - 16}" y2="${sign > 0 ? top + 16 : middle + half - 16}" stroke-dasharray="2 4"/>` +
      `<text class="halo" x="${width - RIGHT}" y="${sign > 0 ? y - 2 : y + 13}" text-anchor="end">${whole(most)}</text>` +
      `<text class="halo" x="${LEFT}" y="${sign > 0 ? y - 2 : y + 13}">${sign > 0 ? "positives" : "negatives"}</text>`;
  };
  const at = x(current.edges[current.chosen]), was = x(current.edges[current.validated]);
  const ticks = onLogit() ? [0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999] : [0, 0.2, 0.4, 0.6, 0.8, 1];
  const texts = ticks.filter((p, i) => width > 420 || !onLogit() || i % 2 === 0).map((p) => `<text x="${x(p)}" y="${height - 4}" text-anchor="middle">${p}</text>`).join("");
  const side = at < LEFT + 60 ? "start" : at > width - RIGHT - 60 ? "end" : "middle";
  box.innerHTML = `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="Histogram of scores: positives above, negatives below; solid where predicted">
    <clipPath id="no"><rect x="0" y="0" width="${at}" height="${height}"/></clipPath>
    <clipPath id="yes"><rect x="${at}" y="0" width="${width}" height="${height}"/></clipPath>
    ${bars(current.tp, 1, "pos")}${bars(current.fp, -1, "neg")}
    <line class="zero" x1="${LEFT}" x2="${width - RIGHT}" y1="${middle}" y2="${middle}"/>
    <line class="validated" x1="${was}" x2="${was}" y1="${top}" y2="${height - 16}"/>
    <line class="now" x1="${at}" x2="${at}" y1="${top - 6}" y2="${height - 16}"/>
    <text class="tip" x="${Math.max(LEFT, Math.min(width - RIGHT, at + (side === "middle" ? 0 : side === "start" ? -4 : 4)))}" y="10" text-anchor="${side}">${side === "start" ? "predicted \u2192" : side === "end" ? "\u2190 not predicted" : "no \u2190 | \u2192 yes"}</text>
    ${texts}</svg>`;
  const slider = $("slider");
  slider.style.marginLeft = `${LEFT - 8}px`;
  slider.style.width = `${room + 16}px`;
}

function drawCurve() {
  const box = $("curve"), width = Math.max(220, box.clientWidth), height = Math.min(2 * halfHeight() + 76, Math.max(230, width * 1.1));
  const left = 32, bottom = height - 32, top = 8, right = width - 10;
  const x = (r) => left + (right - left) * r, y = (p) => bottom - (bottom - top) * p;
  const grid = [0, 0.25, 0.5, 0.75, 1].map((v) =>
    `<line class="axis" x1="${left}" x2="${right}" y1="${y(v)}" y2="${y(v)}"/><line class="axis" x1="${x(v)}" x2="${x(v)}" y1="${top}" y2="${bottom}"/>` +
    `<text x="${left - 5}" y="${y(v) + 4}" text-anchor="end">${v}</text><text x="${x(v)}" y="${bottom + 14}" text-anchor="middle">${v}</text>`).join("");
  const points = [];
  for (let i = 0; i < current.edges.length; i++) {
    const n = numbers(current, i);
    if (n.precision !== null && n.recall !== null) points.push([x(n.recall), y(n.precision)]);
  }
  const line = points.map(([a, b]) => `${a.toFixed(1)},${b.toFixed(1)}`).join(" ");
  const point = (at, shape) => {
    const n = numbers(current, at);
    return n.precision === null || n.recall === null ? "" : shape(x(n.recall), y(n.precision));
  };
  const known = current.support + current.negatives;
  const chance = known ? current.support / known : 0;
  const empty = current.support ? "" : `<text x="${(left + right) / 2}" y="${(top + bottom) / 2}" text-anchor="middle">no known positives: no curve</text>`;
  box.innerHTML = `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="Precision against recall">${grid}
    <line class="validated" x1="${left}" x2="${right}" y1="${y(chance)}" y2="${y(chance)}"><title>Precision of predicting every row</title></line>
    <polyline points="${line}" fill="none" stroke="var(--blue)" stroke-width="2" stroke-linejoin="round"/>
    ${point(current.validated, (a, b) => `<circle cx="${a}" cy="${b}" r="7" fill="none" stroke="var(--soft)" stroke-width="2"><title>Validated</title></circle>`)}
    ${point(current.chosen, (a, b) => `<circle id="point" cx="${a}" cy="${b}" r="4.5" fill="var(--ink)" stroke="var(--paper)" stroke-width="1.5"><title>Chosen</title></circle>`)}
    ${empty}
    <text x="${(left + right) / 2}" y="${height - 4}" text-anchor="middle">recall</text>
    <text transform="translate(8 ${(top + bottom) / 2}) rotate(-90)" text-anchor="middle" class="halo">precision</text>
    <g transform="translate(${left + 8} ${bottom - 26})"><circle class="halo" cx="4" cy="0" r="3.5" fill="var(--ink)"/><text class="halo" x="13" y="4">chosen</text><circle cx="4" cy="15" r="4.5" fill="none" stroke="var(--soft)" stroke-width="2"/><text class="halo" x="13" y="19">validated</text></g>
    </svg>`;
}

/* ---- the label's detail ---- */

const ORIGINS = {
  tuned: "Tuned on its own scores", shared: "Uses the shared threshold",
  shrunk: "Between its own and the shared threshold", fixed: "A given threshold, not tuned",
};

function badge(text, kind = "") {
  const made = document.createElement("span");
  made.className = `badge ${kind}`;
  made.textContent = made.title = visible(text);
  return made;
}

function originSentence({ report }) {
  let text = `${ORIGINS[report.origin]} for ${metricName(report.objective)}`;
  if (report.origin === "fixed") text = ORIGINS.fixed;
  if (report.reason) text += `: ${report.reason}`;
  text += ".";
  if (report.value !== null) {
    text += ` Validated ${metricName(report.metric)} ${share(report.value)}`;
    if (report.interval) text += ` (95 % interval ${share(report.interval[0])} to ${share(report.interval[1])})`;
    text += ".";
  }
  if (report.thresholdInterval) text += ` Threshold interval ${rounded(report.thresholdInterval[0])} to ${rounded(report.thresholdInterval[1])}.`;
  if (report.optimism !== null) text += ` Optimism ${share(report.optimism)}.`;
  return text;
}

function drawLabel() {
  $("name").textContent = current.shown;
  $("origin").replaceChildren(originSentence(current), ...current.report.warnings.map((text) => badge(text, "warning")));
  for (const [id, at, word] of [["to-validated", current.validated, "validated "], ["to-shared", current.shared, "shared "]]) {
    $(id).textContent = word + rounded(current.edges[at]);
    $(id).title = String(current.edges[at]);
  }
  $("snapped").textContent = "";
  drawChoice();
}

function drawChoice() {
  const now = numbers(current), was = numbers(current, current.validated);
  const isChanged = current.chosen !== current.validated;
  const ofPositives = (n) => (current.support ? `${brief(n / current.support)} of pos.` : "");
  const ofNegatives = (n) => (current.negatives ? `${brief(n / current.negatives)} of neg.` : "");
  const remarks = {
    precision: now.tp + now.fp ? `of ${whole(now.tp + now.fp)} predicted` : "none predicted",
    recall: `of ${whole(current.support)} positives`, f1: "validated",
    tp: ofPositives(now.tp), fn: ofPositives(now.fn), fp: ofNegatives(now.fp), tn: ofNegatives(now.tn),
  };
  for (const key of ["precision", "recall", "f1", "tp", "fp", "fn", "tn"]) {
    const isCount = !key.startsWith("p") && key !== "recall" && key !== "f1";
    const output = $(key), note = output.nextElementSibling;
    output.textContent = isCount ? whole(now[key]) : share(now[key]);
    note.className = "was";
    note.textContent = isChanged ? `was ${isCount ? whole(was[key]) : share(was[key])}` : remarks[key];
    if (isChanged && now[key] !== null && was[key] !== null && now[key] !== was[key]) {
      const goodUp = !["fp", "fn"].includes(key);
      note.classList.add(now[key] > was[key] === goodUp ? "better" : "worse");
    }
  }
  const threshold = current.edges[current.chosen];
  $("threshold").value = String(threshold);
  const slider = $("slider");
  slider.value = position(threshold);
  slider.setAttribute("aria-valuetext", String(threshold));
  $("reset").disabled = !isChanged;
  for (const [id, at] of [["to-validated", current.validated], ["to-shared", current.shared], ["to-half", current.half]]) {
    $(id).classList.toggle("here", current.chosen === at);
  }
  drawHistogram();
  drawCurve();
  drawTraffic();
  drawChosen();
}

function rowsPerDay() {
  const rows = Number($("rows-per-day").value.replace(/[\s,_]/g, ""));
  return Number.isFinite(rows) && rows >= 0 ? rows : null;
}

function drawTraffic() {
  const rows = rowsPerDay(), now = numbers(current), was = numbers(current, current.validated);
  const isKnown = rows !== null && now.rate !== null;
  $("per-day").textContent = isKnown ? perDay(rows * now.rate) : "–";
  let more = isKnown ? ` (${percent(now.rate)} of rows` : "";
  if (isKnown && now.precision !== null) more += `, ${perDay(rows * now.rate * (1 - now.precision))} of them wrong`;
  if (isKnown && current.chosen !== current.validated) more += `; validated: ${perDay(rows * was.rate)}`;
  $("per-day-more").textContent = isKnown ? `${more}), if the day's rows are like these.` : ".";
  drawSummary();
}

function drawSummary() {
  const mean = (which) => labels.reduce((sum, label) => sum + numbers(label, which(label)).f1, 0) / labels.length;
  const now = mean((label) => label.chosen), was = mean((label) => label.validated);
  const rows = rowsPerDay() ?? 0;
  const all = labels.reduce((sum, label) => sum + (numbers(label).rate ?? 0), 0);
  const bold = (text) => Object.assign(document.createElement("b"), { textContent: text });
  const parts = [`${whole(labels.length)} label${labels.length > 1 ? "s" : ""} · ${whole(data.rows)} rows · macro F1 `, bold(share(now, 4))];
  if (Math.abs(now - was) > 5e-7) parts.push(` (validated ${share(was, 4)})`);
  parts.push(" · ", bold(perDay(all * rows)), " predictions a day in all");
  if (data.notes.length) parts.push(" · ", data.notes.map(visible).join(" · "));
  $("summary").replaceChildren(...parts);
}

function choose(edge) {
  current.chosen = Math.max(0, Math.min(current.edges.length - 1, edge));
  $("snapped").textContent = "";
  fillRow(current);
  drawChoice();
}

function nearest(edges, value, by = (x) => x) {
  let best = 0;
  edges.forEach((edge, i) => { if (Math.abs(by(edge) - value) < Math.abs(by(edges[best]) - value)) best = i; });
  return best;
}

/* ---- the list ---- */

const sorting = { key: "label", down: false };
const hasOneMetric = data.reports.every((report) => report.metric === data.reports[0].metric);

function makeRow(label) {
  const row = document.createElement("tr");
  row.innerHTML = '<td><button type="button" class="pick" tabindex="-1"></button><div class="badges"></div></td><td class="number"></td><td class="number"></td><td class="number"></td>';
  const { report } = label, [first, support, metric] = row.cells;
  const pick = first.firstElementChild;
  pick.textContent = label.shown;
  pick.title = label.name;
  if (report.origin !== "tuned") first.lastElementChild.append(badge(report.origin, "origin"));
  first.lastElementChild.append(...report.warnings.map((text) => badge(text, "warning")));
  support.textContent = whole(label.support);
  metric.textContent = report.value === null ? "–" : share(report.value);
  metric.title = metricName(report.metric) + (report.interval ? `, 95 % interval ${share(report.interval[0])} to ${share(report.interval[1])}` : "");
  if (report.interval) {
    const [low, high] = report.interval.map((x) => Math.max(0, Math.min(1, x)));
    metric.insertAdjacentHTML("beforeend", `<span class="interval"><i style="left:${(100 * low).toFixed(1)}%;width:${(100 * (high - low)).toFixed(1)}%"></i></span>`);
  }
  row.addEventListener("click", () => select(label));
  label.row = row;
  fillRow(label);
}

function fillRow(label) {
  const cell = label.row.cells[3], threshold = label.edges[label.chosen];
  cell.textContent = rounded(threshold);
  cell.title = String(threshold);
  label.row.classList.toggle("changed", label.chosen !== label.validated);
}

const sortKeys = {
  label: (a, b) => collator.compare(a.shown, b.shown),
  support: (a, b) => a.support - b.support,
  metric: (a, b) => (a.report.value ?? -1) - (b.report.value ?? -1),
  threshold: (a, b) => a.edges[a.chosen] - b.edges[b.chosen],
  warnings: (a, b) => a.report.warnings.length - b.report.warnings.length,
};

function listed() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const keep = {
    all: () => true,
    warned: (label) => label.report.warnings.length > 0,
    untuned: (label) => label.report.origin !== "tuned",
    changed: (label) => label.chosen !== label.validated,
  }[$("filter").value];
  const sign = sorting.down ? -1 : 1;
  return labels
    .filter((label) => keep(label) && words.every((word) => label.shown.toLowerCase().includes(word)))
    .sort((a, b) => sign * sortKeys[sorting.key](a, b) || a.at - b.at);
}

function drawList() {
  const found = listed();
  $("labels").tBodies[0].replaceChildren(...found.map((label) => label.row));
  $("none").hidden = found.length > 0;
  $("listed").textContent = found.length === labels.length ? `${whole(labels.length)} labels` : `${whole(found.length)} of ${whole(labels.length)} labels`;
  for (const button of document.querySelectorAll("th button")) {
    const isSorted = button.dataset.sort === sorting.key;
    button.classList.toggle("sorted", isSorted);
    button.classList.toggle("down", isSorted && sorting.down);
  }
  for (const head of document.querySelectorAll("th")) {
    const isSorted = head.querySelector(".sorted") !== null;
    head.setAttribute("aria-sort", isSorted ? (sorting.down ? "descending" : "ascending") : "none");
  }
}

function select(label, { focus = false } = {}) {
  for (const [other, isCurrent] of [[current, false], [label, true]]) {
    other.row.classList.toggle("current", isCurrent);
    const pick = other.row.querySelector(".pick");
    pick.tabIndex = isCurrent ? 0 : -1;
    if (isCurrent) pick.setAttribute("aria-current", "true");
    else pick.removeAttribute("aria-current");
  }
  current = label;
  if (focus) {
    label.row.querySelector(".pick").focus({ preventScroll: true });
    label.row.scrollIntoView({ block: "nearest" });
  }
  drawLabel();
}

/* ---- what was chosen ---- */

function drawChosen() {
  const count = changed().length, line = setLine();
  $("num-changed").textContent = count ? `${count} label${count > 1 ? "s" : ""} changed` : "Nothing changed";
  $("line").textContent = count ? `thresher tune … ${visible(line)}` : "These are the validated thresholds.";
  $("copy-line").disabled = $("reset-all").disabled = !count;
  if (!$("texts").hidden) fillTexts();
}

function fillTexts() {
  $("set-text").value = setLine();
  $("json-text").value = decisionJson();
}

let clearing;
function say(text) {
  $("copied").textContent = text;
  clearTimeout(clearing);
  clearing = setTimeout(() => { $("copied").textContent = ""; }, 4000);
}

async function copy(id, what) {
  fillTexts();
  const text = $(id).value;
  try {
    await navigator.clipboard.writeText(text);
    return say(`Copied ${what}`);
  } catch { /* an embedded page may not use the clipboard: select the text instead */ }
  const wasHidden = $("texts").hidden;
  showTexts(true);
  $(id).focus();
  $(id).select();
  if (!document.execCommand("copy")) return say("Selected: press Ctrl+C or ⌘C to copy");
  if (wasHidden) showTexts(false);
  return say(`Copied ${what}`);
}

function showTexts(isShown) {
  $("texts").hidden = !isShown;
  $("show").setAttribute("aria-expanded", String(isShown));
  $("show").textContent = isShown ? "Hide" : "Show";
  if (isShown) fillTexts();
}

/* ---- events ---- */

$("slider").addEventListener("input", () => choose(nearest(current.edges, Number($("slider").value), position)));
$("slider").addEventListener("keydown", (event) => {
  const last = current.edges.length - 1;
  const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -last, End: last };
  if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  choose(current.chosen + steps[event.key]);
});
$("threshold").addEventListener("change", () => {
  const typed = $("threshold").value.trim().replace(",", "."), value = Number(typed);
  if (typed === "" || !(value >= 0 && value <= 1)) {
    drawChoice();
    $("snapped").textContent = "Expected a number from 0 to 1.";
    return;
  }
  choose(nearest(current.edges, value));
  const snapped = current.edges[current.chosen];
  if (Math.abs(snapped - value) > 1e-7) $("snapped").textContent = `${typed} → ${snapped}, the nearest with exact counts.`;
});
$("to-validated").addEventListener("click", () => choose(current.validated));
$("to-shared").addEventListener("click", () => choose(current.shared));
$("to-half").addEventListener("click", () => choose(current.half));
$("reset").addEventListener("click", () => choose(current.validated));
$("reset-all").addEventListener("click", () => {
  for (const label of changed()) { label.chosen = label.validated; fillRow(label); }
  drawList();
  drawChoice();
});
$("rows-per-day").addEventListener("input", drawTraffic);
for (const id of ["log-counts", "logit-axis"]) $(id).addEventListener("change", drawChoice);

const pointed = (event) => {
  const box = $("histogram").getBoundingClientRect();
  choose(nearest(current.edges, (event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT), position));
};
$("histogram").addEventListener("pointerdown", (event) => { $("histogram").setPointerCapture(event.pointerId); pointed(event); });
$("histogram").addEventListener("pointermove", (event) => { if (event.buttons & 1) pointed(event); });
$("curve").addEventListener("click", (event) => {
  const box = $("curve").getBoundingClientRect();
  const recall = (event.clientX - box.left - 32) / (box.width - 42);
  choose(nearest(current.edges.map((_, i) => i), recall, (i) => numbers(current, i).recall ?? 9));
});

$("search").addEventListener("input", drawList);
$("filter").addEventListener("change", drawList);
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const { sort } = button.dataset;
    sorting.down = sorting.key === sort ? !sorting.down : ["support", "warnings"].includes(sort);
    sorting.key = sort;
    drawList();
  });
}
document.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input, textarea, select");
  if (event.key === "/" && !isTyping) { event.preventDefault(); $("search").focus(); return; }
  const isInList = event.target.matches(".pick, #search");
  if (!isInList || !["ArrowDown", "ArrowUp"].includes(event.key)) return;
  event.preventDefault();
  const found = listed(), at = found.indexOf(current);
  const next = event.target.id === "search" ? found[0] : found[at + (event.key === "ArrowDown" ? 1 : -1)];
  if (next) select(next, { focus: true });
});
$("show").addEventListener("click", () => showTexts($("texts").hidden));
$("copy-line").addEventListener("click", () => copy("set-text", "the --set line"));
$("copy-json").addEventListener("click", () => copy("json-text", "decision.json"));

$("title").textContent = visible(data.title);
if (hasOneMetric) $("metric-head").textContent = metricName(data.reports[0].metric);
labels.forEach(makeRow);
drawList();
select(listed()[0]);
new ResizeObserver(() => { drawHistogram(); drawCurve(); }).observe($("detail"));
document.documentElement.dataset.ready = "true";
