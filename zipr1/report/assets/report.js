"use strict";
// The browser of answers. What is chosen lives in the URL's hash, so that a view can be sent as a link. Text from the data
// reaches the page as text nodes and attributes only, never as markup.
const { methods, questions } = JSON.parse(document.getElementById("data").textContent);
const PAGE = 24; // cards
const DIM = 0.2; // brightness of a cell that every layer dropped, as in zipr1/picture.py
const form = document.getElementById("filters");
const fields = ["method", "task", "show", "text", "layer"];
let page = 0;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function shape(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

const percent = (share) => `${(100 * share).toFixed(0)} %`;

// Per layer a function from visual token to kept or not: a bit a token, the highest bit of a byte first.
function masks(kept) {
  return kept.map((layer) => {
    const bytes = atob(layer);
    return (token) => (bytes.charCodeAt(token >> 3) >> (7 - (token & 7))) & 1;
  });
}

// Each cell as dark as the share of the layers shown that dropped its token; outlined where at least half kept it.
function overlay(answer, columns, layer) {
  const [frames, height, width] = answer.grid;
  const layers = masks(answer.kept);
  const seen = layer ? [layers[layer - 1]] : layers;
  const across = Math.min(columns, frames);
  const drawing = shape("svg", {
    viewBox: `0 0 ${across * width} ${Math.ceil(frames / across) * height}`, preserveAspectRatio: "none", "aria-hidden": "true",
  });
  const outlines = [];
  for (let token = 0; token < frames * height * width; token++) {
    const [frame, cell] = [Math.floor(token / (height * width)), token % (height * width)];
    const x = (frame % across) * width + (cell % width);
    const y = Math.floor(frame / across) * height + Math.floor(cell / width);
    const share = seen.reduce((sum, kept) => sum + kept(token), 0) / seen.length;
    const place = { x, y, width: 1, height: 1 };
    if (share < 1) drawing.append(shape("rect", { ...place, class: "dropped", "fill-opacity": (1 - DIM) * (1 - share) }));
    if (share >= 0.5) outlines.push(shape("rect", { ...place, class: "kept" }));
  }
  for (let frame = 0; frames > 1 && frame < frames; frame++) {
    const place = { x: (frame % across) * width, y: Math.floor(frame / across) * height, width, height };
    outlines.push(shape("rect", { ...place, class: "frame" }));
  }
  drawing.append(...outlines);
  return drawing;
}

function mark(right) {
  return element("span", { class: right ? "right" : "wrong" }, right ? "✓" : "✗", element("span", { class: "hidden" }, right ? " correct" : " incorrect"));
}

function answerRow(index, answer) {
  const choose = element("button", { type: "button", title: "show the tokens this method kept" }, methods[index].name);
  choose.addEventListener("click", () => {
    form.method.value = index;
    changed();
  });
  return element(
    "tr", index === chosen() ? { class: "chosen" } : {},
    element("th", { scope: "row" }, choose),
    element("td", {}, mark(answer.right), ` ${answer.answer}`),
    element("td", {}, percent(answer.ratio)),
  );
}

function picture(question, answer, layer) {
  if (!question.picture) return element("p", { class: "missing" }, question.missing);
  const box = element("div", { class: "picture" }, element("img", { src: question.picture, alt: question.alt }));
  if (answer.kept) box.append(overlay(answer, question.columns, layer));
  return box;
}

function kept(answer, layer) {
  if (methods[chosen()].shorter) {
    return element("p", { class: "soft" }, `the prompt was shortened to ${percent(answer.ratio)} of Full's, and answered with dense attention: the image shown is Full's`);
  }
  const line = element("p", { class: "soft" }, "kept of the prompt, by layer: ");
  answer.layers.forEach((ratio, i) => line.append(i ? " · " : "", element(i + 1 === layer ? "b" : "span", {}, percent(ratio))));
  if (!answer.kept && answer.ratio < 1) line.append(" (which tokens was not recorded: run it again to see them)");
  return line;
}

function card(question) {
  const answer = question.answers[chosen()];
  const layer = Math.min(Number(form.layer.value), answer.layers.length);
  const rows = Object.entries(question.answers).map(([index, one]) => answerRow(Number(index), one));
  return element(
    "article", { "data-id": question.id },
    picture(question, answer, layer),
    element(
      "div", { class: "body" },
      element("h3", {}, question.question),
      element("p", {}, "Expected: ", element("b", {}, question.expected)),
      element("table", { class: "answers" }, element("tbody", {}, ...rows)),
      kept(answer, layer),
      element("p", { class: "id" }, question.id),
    ),
  );
}

const chosen = () => Number(form.method.value);
const fullOf = (question) => question.answers[methods[chosen()].full];
// Where Full itself is chosen: any method that is compared with it.
const disagree = (question) =>
  Object.entries(question.answers).some(
    ([index, answer]) => answer.differs && (Number(index) === chosen() || methods[index].full === chosen()),
  );
const shows = {
  all: () => true,
  right: (question) => question.answers[chosen()].right,
  wrong: (question) => !question.answers[chosen()].right,
  disagree,
  lost: (question) => fullOf(question)?.right && !question.answers[chosen()].right,
  gained: (question) => fullOf(question)?.right === false && question.answers[chosen()].right,
};

function found(question, words) {
  const texts = [question.id, question.question, question.expected, ...Object.values(question.answers).map((one) => one.answer)];
  return texts.join("\n").toLowerCase().includes(words);
}

function render() {
  const words = form.text.value.trim().toLowerCase();
  const matching = questions.filter(
    (question) =>
      question.answers[chosen()] &&
      (!form.task.value || question.task === form.task.value) &&
      shows[form.show.value](question) &&
      found(question, words),
  );
  page = Math.max(0, Math.min(page, Math.ceil(matching.length / PAGE) - 1));
  const part = matching.slice(page * PAGE, (page + 1) * PAGE);
  const span = part.length ? `Questions ${page * PAGE + 1} to ${page * PAGE + part.length} of ${matching.length}` : "No question";
  const rest = matching.length < questions.length ? ` that match, of ${questions.length}` : "";
  document.getElementById("count").textContent = span + rest;
  document.getElementById("previous").disabled = page === 0;
  document.getElementById("next").disabled = (page + 1) * PAGE >= matching.length;
  const layer = Number(form.layer.value);
  form.layer.setAttribute("aria-valuetext", layer ? `layer ${layer}` : "all layers");
  form.which.value = layer ? `layer ${layer} of ${form.layer.max}` : "all layers";
  document.getElementById("cards").replaceChildren(...part.map(card));
}

// From the form to the hash and to the page; without `keep`, from the first page on.
function changed(keep = false) {
  if (!keep) page = 0;
  const values = fields.map((name) => [name, form[name].value]).concat([["page", page + 1]]);
  history.replaceState(null, "", `#${new URLSearchParams(values)}`);
  render();
}

// From the hash to the form; a hash that names a part of the page is none of ours.
function read() {
  const values = new URLSearchParams(location.hash.slice(1));
  for (const name of fields) if (values.has(name)) form[name].value = values.get(name);
  for (const select of form.querySelectorAll("select")) if (select.selectedIndex < 0) select.selectedIndex = 0; // no such value
  page = Number(values.get("page") ?? 1) - 1;
  render();
}

function turn(step) {
  page += step;
  changed(true);
  form.scrollIntoView();
}

methods.forEach((method, index) => form.method.append(element("option", { value: index }, method.name)));
for (const task of new Set(questions.map((question) => question.task))) form.task.append(element("option", { value: task }, task));
form.method.value = methods.length - 1; // the last is what the run was made for: the trained model of a demo
form.layer.max = Math.max(...questions.flatMap((question) => Object.values(question.answers).map((one) => one.layers.length)));
form.addEventListener("input", () => changed());
form.addEventListener("submit", (event) => event.preventDefault());
document.getElementById("previous").addEventListener("click", () => turn(-1));
document.getElementById("next").addEventListener("click", () => turn(1));
window.addEventListener("hashchange", read);
read();
