"use strict";
// Shows questions with their answers: filters, searches and sorts what the page holds as JSON. Texts enter the page as
// text nodes alone, images as data.
(() => {
  const holder = document.getElementById("answers-data");
  if (!holder) return;
  const data = JSON.parse(holder.textContent);
  const NAMES = { textvqa: "TextVQA", mmbench: "MMBench" };
  const PAGE = 48;
  const cards = document.getElementById("cards");
  const count = document.getElementById("count");
  const more = document.getElementById("more");
  const field = (name) => document.getElementById(`filter-${name}`);
  const fields = ["benchmark", "category", "state", "order", "left", "right", "search"].map(field);
  let found = [];
  let shown = 0;

  const make = (tag, text, kind) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (kind) node.className = kind;
    return node;
  };
  const offer = (select, values) => {
    for (const [value, text] of values) {
      const option = make("option", text);
      option.value = value;
      select.append(option);
    }
  };
  const left = () => Number(field("left").value || 0);
  const right = () => Number(field("right").value || 0);
  const chosen = () => (data.arms.length > 1 && left() !== right() ? [left(), right()] : [left()]);
  const change = (question) => {
    const [first, second] = [question.m[left()], question.m[right()]];
    return first === null || second === null ? 0 : first - second;
  };
  const states = {
    all: () => true,
    wrong: (question) => question.m[left()] === 0,
    partly: (question) => question.m[left()] > 0 && question.m[left()] < 1,
    right: (question) => question.m[left()] === 1,
    changed: (question) => change(question) !== 0,
    better: (question) => change(question) > 0,
    worse: (question) => change(question) < 0,
  };

  const badge = (credit) => {
    const state = credit >= 1 ? "right" : credit > 0 ? "partly" : "wrong";
    const text = credit >= 1 ? "✓ right" : credit > 0 ? `± ${Math.round(100 * credit)} %` : "✗ wrong";
    return make("span", text, `badge ${state}`);
  };
  const answers = (question, arm) => {
    const box = make("div", undefined, "arm");
    if (data.arms.length > 1) {
      const mean = question.m[arm];
      box.append(make("small", data.arms[arm] + (mean === null ? ": not asked" : `: ${Math.round(100 * mean)} %`)));
    }
    const first = question.a.flat()[0][2];
    for (const [text, read, wanted, credit, times] of question.a[arm]) {
      const line = make("div");
      line.append(badge(credit), make("span", text === "" ? "(no answer)" : text));
      if (times > 1) line.append(make("span", ` ×${times}`));
      // A rotated question's answers have right letters of their own.
      const remark = [read, wanted === first ? "" : `right: ${wanted}`].filter(Boolean).join("; ");
      if (remark) line.append(make("small", remark));
      box.append(line);
    }
    return box;
  };
  const card = (question) => {
    const figure = make("figure");
    const images = make("div", undefined, "images");
    images.hidden = data.images.length === 0;
    if (question.i === null) images.append(make("div", "no image here", "missing"));
    else {
      const image = make("img");
      image.alt = "";
      image.src = `data:image/jpeg;base64,${data.images[question.i]}`;
      images.append(image);
    }
    const caption = make("figcaption");
    caption.append(make("span", question.q, "question"));
    if (question.o.length) caption.append(make("span", question.o.join("   "), "options"));
    const wanted = question.a.flat()[0]?.[2];
    if (wanted) caption.append(make("span", `right: ${wanted}`, "wanted"));
    for (const arm of chosen()) caption.append(answers(question, arm));
    const place = [NAMES[question.b] || question.b, question.c, question.n].filter(Boolean).join(" · ");
    caption.append(make("small", place));
    figure.append(images, caption);
    return figure;
  };
  const grow = () => {
    for (const question of found.slice(shown, shown + PAGE)) cards.append(card(question));
    shown = Math.min(found.length, shown + PAGE);
    count.textContent = `${found.length.toLocaleString("en")} of ${data.questions.length.toLocaleString("en")} questions` +
      (shown < found.length ? `, ${shown} shown` : "");
    more.hidden = shown >= found.length;
  };
  const text = (question) =>
    [question.q, question.n, ...question.o, ...question.a.flat().flatMap((answer) => [answer[0], answer[2]])].join("\n").toLowerCase();
  const update = () => {
    const words = field("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const state = states[field("state").value];
    found = data.questions.filter((question) =>
      (!field("benchmark").value || question.b === field("benchmark").value) &&
      (!field("category").value || question.c === field("category").value) &&
      state(question) &&
      (!words.length || words.every((word) => text(question).includes(word))));
    const order = field("order").value;
    if (order === "change") found.sort((one, other) => Math.abs(change(other)) - Math.abs(change(one)));
    if (order === "worst") found.sort((one, other) => (one.m[left()] ?? 2) - (other.m[left()] ?? 2));
    cards.replaceChildren();
    shown = 0;
    grow();
  };

  const different = (key) => [...new Set(data.questions.map((question) => question[key]))].filter(Boolean).sort();
  offer(field("benchmark"), [["", "both"], ...different("b").map((value) => [value, NAMES[value] || value])]);
  offer(field("category"), [["", "all"], ...different("c").map((value) => [value, value])]);
  const two = data.arms.length > 1;
  offer(field("state"), [["all", "all"], ["wrong", "only wrong"], ["partly", "partly right"], ["right", "only right"],
    ...(two ? [["changed", "changed"], ["better", "better than the other"], ["worse", "worse than the other"]] : [])]);
  offer(field("order"), [["", "as asked"], ["worst", "worst first"], ...(two ? [["change", "largest change first"]] : [])]);
  for (const [place, name] of data.arms.entries()) for (const side of ["left", "right"]) offer(field(side), [[place, name]]);
  if (two) {
    field("left").value = String(data.left ?? 0);
    field("right").value = String(data.right ?? 1);
    if (data.questions.some((question) => change(question) !== 0)) {
      field("state").value = "changed";
      field("order").value = "change";
    }
  }
  for (const side of ["left", "right"]) field(side).parentElement.hidden = !two;
  for (const one of fields) one.addEventListener(one === field("search") ? "input" : "change", update);
  more.addEventListener("click", grow);
  document.getElementById("browser").hidden = false;
  update();
})();
