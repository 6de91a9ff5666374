"use strict";
// Counts rows while thresholds move. A value is a code: 2i+1 where it equals edge i, 2i below edge i; see axis.py.

const STAYS = 65535, HIGHEST = 65533, POSITIONS = 1000, NEAREST = 6;
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 480, HEIGHT = 150, FLOOR = 128, TALLEST = 112;
const data = JSON.parse(document.getElementById("data").textContent);
const slots = data.slots.map((slot) => ({ ...slot, value: null, original: null }));
const dropping = new Uint8Array(data.rows); // how many statistics and marks drop each row
let statistics = [];
let waiting = false; // whether a frame is already asked for

const byId = (name) => document.getElementById(name);
const count = (number) => number.toLocaleString("en-US");
const short = (number) => String(Number(number.toPrecision(4)));

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function drawn(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// --- values, edges and places on an axis ---

function placeOf(axis, value) {
  const scale = axis.is_log ? (number) => Math.log(Math.max(number, axis.low)) : (number) => number;
  const place = (scale(value) - scale(axis.low)) / (scale(axis.high) - scale(axis.low));
  return Math.min(1, Math.max(0, place));
}

function valueAt(axis, place) {
  return axis.is_log ? axis.low * (axis.high / axis.low) ** place : axis.low + place * (axis.high - axis.low);
}

function nearestEdge(edges, value) {
  let low = 0, high = edges.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (edges[middle] <= value) low = middle; else high = middle;
  }
  return value - edges[low] < edges[high] - value ? low : high;
}

// The place of a threshold among the codes: that of its edge, or of the gap between two.
function codeOf(edges, value) {
  let low = 0, high = edges.length; // the first edge that is not below the value
  while (low < high) {
    const middle = (low + high) >> 1;
    if (edges[middle] < value) low = middle + 1; else high = middle;
  }
  return edges[low] === value ? 2 * low + 1 : 2 * low;
}

// The value itself where rows can be counted exactly for it, else the nearest edge.
function countable(statistic, slot, value) {
  const { edges } = statistic, nearest = edges[nearestEdge(edges, value)];
  const code = codeOf(edges, value);
  if (code % 2 || value < edges[0] || value > edges.at(-1) || statistic.is_whole) return nearest;
  const sharing = statistics.filter((other) => other.thresholds.some((threshold) => threshold.slot === slot));
  return sharing.some((other) => other.codes.includes(code)) ? nearest : value;
}

function binsOfCodes(statistic) {
  const { axis, edges } = statistic;
  const bins = new Uint8Array(2 * edges.length + 1);
  for (let code = 0; code < bins.length; code++) {
    const index = code >> 1, above = edges[Math.min(index, edges.length - 1)];
    const value = code % 2 ? above : (edges[Math.max(0, index - 1)] + above) / 2;
    bins[code] = Math.min(axis.bins - 1, Math.floor(placeOf(axis, value) * axis.bins));
  }
  return bins;
}

// --- counting ---

function recount(statistic) {
  const bound = (side, otherwise) => {
    const limit = statistic.thresholds.find((threshold) => threshold.name.startsWith(side));
    const value = limit && slots[limit.slot].value;
    return value === null || value === undefined ? otherwise : codeOf(statistic.edges, value);
  };
  const low = bound("min_", 0), high = bound("max_", HIGHEST);
  const { codes, drops } = statistic;
  let dropped = 0;
  for (let row = 0; row < codes.length; row++) {
    const code = codes[row], drop = code !== STAYS && (code < low || code > high) ? 1 : 0;
    dropping[row] += drop - drops[row];
    drops[row] = drop;
    dropped += drop;
  }
  statistic.alone = codes.length - dropped;
}

function together() {
  let staying = 0;
  for (let row = 0; row < dropping.length; row++) staying += dropping[row] === 0 ? 1 : 0;
  return staying;
}

function histogram(statistic) {
  const { codes, drops, binOf, axis } = statistic;
  const stays = new Uint32Array(axis.bins), other = new Uint32Array(axis.bins), outside = new Uint32Array(axis.bins);
  let only = 0;
  for (let row = 0; row < codes.length; row++) {
    only += drops[row] & (dropping[row] === 1 ? 1 : 0);
    if (codes[row] > HIGHEST) continue;
    const bin = binOf[codes[row]];
    if (drops[row]) outside[bin]++; else if (dropping[row]) other[bin]++; else stays[bin]++;
  }
  return { stays, other, outside, only };
}

// --- a statistic's card ---

function build(statistic) {
  const { axis } = statistic;
  const chart = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  statistic.bars = ["stays", "other", "outside"].map((name) => {
    const className = { stays: "kept", other: "other", outside: "dropped" }[name];
    return Array.from({ length: axis.bins }, (_, bin) => {
      const bar = drawn("rect", { class: className, x: (bin * WIDTH / axis.bins).toFixed(2), width: (WIDTH / axis.bins - 0.7).toFixed(2) });
      chart.append(bar);
      return bar;
    });
  });
  chart.append(drawn("line", { class: "axis", x1: 0, x2: WIDTH, y1: FLOOR, y2: FLOOR }));
  for (const [place, anchor] of [[0, "start"], [0.25, "middle"], [0.5, "middle"], [0.75, "middle"], [1, "end"]]) {
    const label = drawn("text", { x: place * WIDTH, y: FLOOR + 16, "text-anchor": anchor });
    label.textContent = short(valueAt(axis, place));
    chart.append(label);
  }
  statistic.lines = statistic.thresholds.map(() => {
    const line = drawn("line", { class: "threshold", y1: 4, y2: FLOOR });
    chart.append(line);
    return line;
  });
  const [lowest, middle, highest] = statistic.range.map(short);
  const about = `${statistic.step}, operator ${statistic.number}: from ${lowest} to ${highest}, median ${middle}, ` +
    `${count(statistic.known)} rows${axis.is_log ? ", logarithmic axis" : ""}`;
  statistic.told = element("p", { className: "told" });
  const controls = statistic.thresholds.map((threshold) => control(statistic, threshold));
  if (!controls.length) statistic.told.textContent = "Its thresholds cannot be moved here.";
  const left = element("div", {}, element("h3", { textContent: statistic.stat }), element("small", { textContent: about }), chart, ...controls, statistic.told);
  statistic.galleries = element("div", { className: "sides" });
  const isFlat = statistic.range[0] === statistic.range[2]; // the same in every row: nothing to see
  if (isFlat) chart.remove();
  const card = element("div", { className: "card statistic", id: `statistic-${statistic.name}` }, left, ...isFlat ? [] : [statistic.galleries]);
  byId("statistics").append(card);
  statistic.card = card;
  watcher.observe(card);
}

function control(statistic, threshold) {
  const label = `${threshold.name} of ${statistic.name}`;
  const range = element("input", { type: "range", min: 0, max: POSITIONS, step: 1, ariaLabel: label });
  const box = element("input", { type: "number", step: "any", placeholder: threshold.idle ?? "none", ariaLabel: `${label}, as a number` });
  Object.assign(threshold, { range, box });
  range.dataset.slot = box.dataset.slot = `${statistic.number}.${threshold.name}`;
  range.addEventListener("input", () => {
    const place = Number(range.value) / POSITIONS, last = statistic.edges.length - 1;
    const index = place === 0 ? 0 : place === 1 ? last : nearestEdge(statistic.edges, valueAt(statistic.axis, place));
    choose(statistic, threshold, statistic.edges[index]);
  });
  range.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    if (!step) return;
    event.preventDefault(); // the next value, which a thousandth of the axis may not reach
    const index = nearestEdge(statistic.edges, shownValue(statistic, threshold)) + step;
    choose(statistic, threshold, statistic.edges[Math.min(statistic.edges.length - 1, Math.max(0, index))]);
  });
  box.addEventListener("change", () => {
    const typed = box.value === "" ? null : Number(box.value);
    const value = typed === null ? slots[threshold.slot].original : countable(statistic, threshold.slot, typed);
    choose(statistic, threshold, value);
    if (typed !== null && typed !== value) statistic.remark = `; ${typed} cannot be chosen here, ${value} is the nearest threshold`;
    box.value = value ?? "";
  });
  return element("label", { className: "slider" }, element("span", { textContent: threshold.name }), range, box);
}

function shownValue(statistic, threshold) {
  const value = slots[threshold.slot].value;
  return value ?? statistic.edges[threshold.name.startsWith("min_") ? 0 : statistic.edges.length - 1];
}

function choose(statistic, threshold, value) {
  slots[threshold.slot].value = value;
  statistic.active = threshold;
  for (const other of statistic.thresholds) { // a minimum above its maximum is no recipe
    const bound = slots[other.slot];
    if (other === threshold || bound.value === null || value === null) continue;
    const isBelow = threshold.name.startsWith("min_") ? bound.value < value : bound.value > value;
    if (isBelow && other.name.slice(4) === threshold.name.slice(4)) bound.value = value;
  }
  changed([statistic]);
}

function changed(moved) {
  for (const statistic of moved) statistic.remark = "";
  const touched = new Set(moved.flatMap((statistic) => statistic.thresholds.map((threshold) => threshold.slot)));
  for (const statistic of statistics) {
    if (statistic.thresholds.some((threshold) => touched.has(threshold.slot))) recount(statistic);
  }
  byId("stay").textContent = count(together());
  if (!waiting) requestAnimationFrame(draw);
  waiting = true;
}

// Only what is on the screen is drawn, as a card of 400,000 rows takes milliseconds; the rest when it comes there.
const onScreen = new Set();
const stale = new Map(); // element -> what draws it
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) onScreen.add(entry.target); else onScreen.delete(entry.target);
  }
  drawStale();
});

function drawStale() {
  for (const [card, redraw] of stale) {
    if (!onScreen.has(card)) continue;
    stale.delete(card);
    redraw();
  }
}

function draw() {
  waiting = false;
  for (const statistic of statistics) stale.set(statistic.card, () => drawStatistic(statistic));
  stale.set(byId("pair"), drawPair);
  drawStale();
  byId("yaml-text").value = yaml();
  const moved = slots.filter((slot) => slot.value !== slot.original);
  byId("about-copies").hidden = !data.marks.some((mark) => mark.kind === "deduplicator" && moved.some((slot) => slot.number < mark.number));
  const state = moved.map((slot) => `${slot.number}.${slot.name}=${slot.value}`).join("&");
  if (state !== location.hash.slice(1) && (state || location.hash.includes("="))) history.replaceState(null, "", `#${state}`);
}

function drawStatistic(statistic) {
  const { stays, other, outside, only } = histogram(statistic);
  let tallest = 1;
  for (let bin = 0; bin < stays.length; bin++) tallest = Math.max(tallest, stays[bin] + other[bin] + outside[bin]);
  for (let bin = 0; bin < stays.length; bin++) {
    let floor = FLOOR;
    [stays[bin], other[bin], outside[bin]].forEach((rows, kind) => {
      const height = rows ? Math.max(1, TALLEST * rows / tallest) : 0;
      floor -= height;
      statistic.bars[kind][bin].setAttribute("y", floor.toFixed(1));
      statistic.bars[kind][bin].setAttribute("height", height.toFixed(1));
    });
  }
  statistic.thresholds.forEach((threshold, index) => {
    const value = slots[threshold.slot].value, line = statistic.lines[index];
    const place = placeOf(statistic.axis, shownValue(statistic, threshold));
    line.setAttribute("x1", place * WIDTH);
    line.setAttribute("x2", place * WIDTH);
    line.setAttribute("visibility", value === null ? "hidden" : "visible");
    threshold.range.value = Math.round(place * POSITIONS);
    if (document.activeElement !== threshold.box || threshold.box.value === "") threshold.box.value = value === null ? "" : value;
  });
  if (statistic.thresholds.length) {
    statistic.told.textContent = `alone ${count(statistic.alone)} rows stay; ${count(only)} are dropped by this one only${statistic.remark}`;
  }
  drawSides(statistic);
}

// --- images ---

function picture(sample, remark) {
  const image = sample.image ? element("img", { alt: "", src: sample.image }) : element("div", { className: "missing", textContent: "not shown here" });
  const isStaying = sample.place === undefined || dropping[sample.place] === 0;
  const state = element("span", { className: isStaying ? "stays" : "goes", textContent: isStaying ? "stays" : "dropped" });
  const id = sample.id.length > 40 ? `${sample.id.slice(0, 39)}\u2026` : sample.id;
  const small = element("small", { title: `id ${sample.id}` }, state, ` \u00b7 ${remark} \u00b7 id ${id}`);
  return element("figure", {}, element("div", { className: "images" }, image), element("figcaption", {}, element("span", { className: "caption", textContent: sample.caption, title: sample.caption }), small));
}

function drawSides(statistic) {
  const column = statistic.column, ranked = statistic.ranked;
  const active = statistic.active ?? statistic.thresholds.find((threshold) => slots[threshold.slot].value !== null);
  const value = active ? slots[active.slot].value : null;
  const sides = [];
  if (value === null) {
    sides.push(["lowest", ranked.slice(0, NEAREST)], ["highest", ranked.slice(-NEAREST).reverse()]);
  } else {
    const isMinimum = active.name.startsWith("min_");
    const below = ranked.filter((sample) => isMinimum ? sample.values[column] < value : sample.values[column] <= value);
    const under = below.slice(-NEAREST).reverse(), over = ranked.slice(below.length, below.length + NEAREST);
    const [inside, outside] = isMinimum ? [over, under] : [under, over];
    sides.push([`just inside ${active.name} ${value}`, inside], [`just outside ${active.name} ${value}`, outside]);
  }
  const key = sides.map(([, samples]) => samples.map((sample) => `${sample.place}${dropping[sample.place] ? "-" : "+"}`).join()).join(";") + value;
  if (statistic.sides === key) return;
  statistic.sides = key;
  statistic.galleries.replaceChildren(...sides.map(([title, samples]) => element("div", {}, element("h4", { textContent: title }),
    element("div", { className: "strip" }, ...samples.map((sample) => picture(sample, short(sample.values[column])))))));
}

// --- pairs ---

const ROWS = 40, COLUMNS = 72;

function chosenPair() {
  return [statistics[byId("pair-x").value], statistics[byId("pair-y").value]];
}

function drawPair() {
  const [across, upwards] = chosenPair(), canvas = byId("pair");
  if (!across) return;
  const cell = (statistic, cells) => Uint8Array.from(statistic.binOf, (bin) => Math.min(cells - 1, Math.floor(bin * cells / statistic.axis.bins)));
  const columnOf = cell(across, COLUMNS), rowOf = cell(upwards, ROWS);
  const all = new Uint32Array(ROWS * COLUMNS), stays = new Uint32Array(ROWS * COLUMNS);
  for (let row = 0; row < data.rows; row++) {
    if (across.codes[row] > HIGHEST || upwards.codes[row] > HIGHEST) continue;
    const index = rowOf[upwards.codes[row]] * COLUMNS + columnOf[across.codes[row]];
    all[index]++;
    if (!dropping[row]) stays[index]++;
  }
  const context = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
  const [kept, dropped, ink, dim] = ["--kept", "--dropped", "--ink", "--dim"].map((name) => style.getPropertyValue(name).trim());
  const { width, height } = canvas, bottom = height - 34, left = 70, most = Math.log1p(Math.max(...all));
  context.clearRect(0, 0, width, height);
  for (let index = 0; index < all.length; index++) {
    if (!all[index]) continue;
    const x = left + (index % COLUMNS) * (width - left) / COLUMNS, y = bottom - (Math.floor(index / COLUMNS) + 1) * bottom / ROWS;
    const share = stays[index] / all[index], strength = 0.2 + 0.8 * Math.log1p(all[index]) / most;
    for (const [colour, part] of [[dropped, 1 - share], [kept, share]]) {
      context.globalAlpha = strength * part;
      context.fillStyle = colour;
      context.fillRect(x, y, (width - left) / COLUMNS - 1, bottom / ROWS - 1);
    }
  }
  context.globalAlpha = 1;
  context.strokeStyle = ink;
  context.setLineDash([6, 5]);
  const line = (...points) => { context.beginPath(); context.moveTo(points[0], points[1]); context.lineTo(points[2], points[3]); context.stroke(); };
  const places = (statistic) => statistic.thresholds.map((limit) => slots[limit.slot].value).filter((value) => value !== null).map((value) => placeOf(statistic.axis, value));
  for (const place of places(across)) line(left + place * (width - left), 0, left + place * (width - left), bottom);
  for (const place of places(upwards)) line(left, bottom * (1 - place), width, bottom * (1 - place));
  context.fillStyle = dim;
  context.font = "20px system-ui, sans-serif";
  for (const place of [0, 0.5, 1]) {
    context.textAlign = { 0: "left", 0.5: "center", 1: "right" }[place];
    context.fillText(short(valueAt(across.axis, place)), left + place * (width - left), height - 8);
    context.textAlign = "right";
    context.fillText(short(valueAt(upwards.axis, place)), left - 8, bottom - place * (bottom - 18));
  }
}

function showNear(event) {
  const [across, upwards] = chosenPair(), canvas = byId("pair"), box = canvas.getBoundingClientRect();
  const x = ((event.clientX - box.left) * canvas.width / box.width - 70) / (canvas.width - 70);
  const y = 1 - (event.clientY - box.top) * canvas.height / box.height / (canvas.height - 34);
  const distance = (sample) => Math.hypot(placeOf(across.axis, sample.values[across.column]) - x, placeOf(upwards.axis, sample.values[upwards.column]) - y);
  const known = data.samples.filter((sample) => sample.values[across.column] !== null && sample.values[upwards.column] !== null);
  const near = known.sort((one, other) => distance(one) - distance(other)).slice(0, 2 * NEAREST);
  byId("pair-images").replaceChildren(...near.map((sample) => picture(sample, `${short(sample.values[across.column])}, ${short(sample.values[upwards.column])}`)));
}

// --- search ---

let lines = null; // {place, id, caption} of the rows that can be found

async function searchable() {
  const texts = await Promise.all(data.search.blocks.map(unpacked));
  const rows = texts.flatMap((bytes) => new TextDecoder().decode(bytes).split("\n"));
  const last = Math.max(1, data.search.rows - 1);
  return rows.map((line, index) => {
    const [id, caption] = line.split("\t");
    return { id, caption, place: Math.floor(index * (data.rows - 1) / last) };
  });
}

async function search() {
  const words = byId("search-words").value.trim().toLowerCase(), found = [];
  lines ??= data.search.rows ? await searchable() : [];
  const samples = new Map(data.samples.map((sample) => [sample.place, sample]));
  const isWanted = (line) => line.id.toLowerCase() === words || line.caption.toLowerCase().includes(words);
  for (const line of words ? lines : []) if (isWanted(line)) found.push(line);
  found.sort((one, other) => (other.id.toLowerCase() === words) - (one.id.toLowerCase() === words));
  const all = found.length;
  found.splice(4 * NEAREST);
  byId("search-count").textContent = words ? `${count(all)} found${all > found.length ? `, ${found.length} of them shown` : ""}` : "";
  byId("search-found").replaceChildren(...found.map((line) => {
    const scores = statistics.map((statistic) => `${statistic.stat} ${scoreOf(statistic, line.place, samples.get(line.place))}`);
    return picture({ ...line, image: samples.get(line.place)?.image }, scores.join(", "));
  }));
}

function scoreOf(statistic, place, sample) {
  const code = statistic.codes[place];
  if (code > HIGHEST) return "none";
  if (sample) return short(sample.values[statistic.column]);
  return short(statistic.edges[Math.min(code >> 1, statistic.edges.length - 1)]);
}

// --- YAML and the page's address ---

function written(value) {
  const text = String(value);
  return text.includes("e") && !text.includes(".") ? text.replace("e", ".0e") : text; // else YAML takes it for a text
}

function yaml() {
  return data.template.map((part) => {
    if (typeof part === "string") return part;
    const moved = part.slots.map((slot, place) => [slots[slot], part.names?.[place]]).filter(([slot]) => slot.value !== slot.original);
    if (!moved.length) return part.text;
    if (!part.names) return written(moved[0][0].value);
    return part.before + moved.map(([slot, name]) => `${name}: ${written(slot.value)}`).join(part.join) + part.after;
  }).join("");
}

function readAddress() {
  const given = new Map(location.hash.slice(1).split("&").map((pair) => pair.split("=")));
  for (const statistic of statistics) {
    for (const threshold of statistic.thresholds) {
      const slot = slots[threshold.slot], text = given.get(`${slot.number}.${slot.name}`);
      slot.value = text && Number.isFinite(Number(text)) ? countable(statistic, threshold.slot, Number(text)) : slot.original;
    }
  }
  changed(statistics);
}

async function copy() {
  const area = byId("yaml-text"), button = byId("copy");
  area.value = yaml();
  try {
    await navigator.clipboard.writeText(area.value);
  } catch {
    area.select();
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy as YAML"; }, 1500);
}

async function start() {
  byId("rows-scored").textContent = count(data.rows);
  byId("date").textContent = document.lastModified; // not written into the page: equal runs give equal pages
  for (const mark of data.marks) {
    const goes = await unpacked(mark.goes);
    for (let row = 0; row < goes.length; row++) dropping[row] += goes[row];
    for (const place of document.querySelectorAll(`[data-copies="${mark.number}"]`)) place.textContent = count(mark.count);
  }
  statistics = await Promise.all(data.statistics.map(async (found, column) => {
    const bytes = await unpacked(found.codes), codes = new Uint16Array(data.rows);
    for (let row = 0; row < codes.length; row++) codes[row] = bytes[row] | bytes[row + codes.length] << 8;
    const edges = new Float64Array((await unpacked(found.edges)).buffer);
    const ranked = data.samples.filter((sample) => sample.values[column] !== null);
    ranked.sort((one, other) => one.values[column] - other.values[column]);
    const statistic = { ...found, column, codes, edges, ranked, drops: new Uint8Array(data.rows), remark: "" };
    return Object.assign(statistic, { binOf: binsOfCodes(statistic) });
  }));
  for (const statistic of statistics) {
    for (const threshold of statistic.thresholds) slots[threshold.slot].original = threshold.value;
    build(statistic);
  }
  const telling = statistics.filter((statistic) => statistic.range[0] !== statistic.range[2]);
  for (const [name, chosen] of [["pair-x", -1], ["pair-y", -2]]) {
    byId(name).append(...statistics.map((statistic, index) => element("option", { value: index, textContent: statistic.name })));
    byId(name).value = (telling.at(chosen) ?? statistics[0])?.column;
    byId(name).addEventListener("change", drawPair);
  }
  byId("search-about").textContent = data.search.rows === data.rows
    ? "Searches the captions and ids of all scored rows."
    : `Searches the captions and ids of ${count(data.search.rows)} of ${count(data.rows)} rows, evenly spread; the file of scores has all.`;
  watcher.observe(byId("pair"));
  byId("pair").addEventListener("click", showNear);
  byId("search-words").addEventListener("input", search);
  byId("copy").addEventListener("click", copy);
  byId("reset").addEventListener("click", () => {
    for (const slot of slots) slot.value = slot.original;
    for (const statistic of statistics) statistic.active = undefined;
    changed(statistics);
  });
  window.addEventListener("hashchange", () => { if (location.hash.includes("=")) readAddress(); });
  readAddress();
}

start();
