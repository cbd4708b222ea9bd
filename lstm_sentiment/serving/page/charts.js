// Bars of probabilities, the coloured text, and the lines of a reading.

import { drawn, element, percent, table } from "./dom.js";

const MOST_SHOWN = 6; // classes with a colour of their own

// Return the CSS class with the colour of a label.
export function colourOf(labels, label) {
  const name = label.toLowerCase();
  if (labels.length <= 3 && /^neg|^bad/.test(name)) return "class-0";
  if (labels.length <= 3 && /^neu|^mix/.test(name)) return "class-1";
  if (labels.length <= 3 && /^pos|^good/.test(name)) return "class-2";
  return `class-${labels.indexOf(label) % MOST_SHOWN}`;
}

// A list of labels with a bar and a number each; `note` follows the number.
export function bars(labels, shares, numbers, notes = []) {
  const items = labels.map((label, place) => {
    const fill = element("span", { class: "fill" });
    fill.style.width = `${100 * shares[place]}%`;
    return element("li", { class: colourOf(labels, label) },
      element("span", { class: "name", dir: "auto" }, label), element("span", { class: "track", "aria-hidden": "true" }, fill),
      element("span", { class: "number" }, numbers[place], notes[place] ? ` ${notes[place]}` : ""));
  });
  return element("ul", { class: "bars" }, items);
}

// The tokens of a text, coloured by their attribution to a class.
export function colouredText(reading, label) {
  const of = reading.attributions.map((row) => row[reading.labels.indexOf(label)]);
  const strongest = Math.max(...of.map(Math.abs), 1e-9);
  const tokens = reading.tokens.map((token, place) => {
    const known = reading.known[place];
    const hint = `${of[place] >= 0 ? "+" : ""}${of[place].toFixed(2)} nats${known ? "" : ", not in the vocabulary"}`;
    const node = element("span", { class: known ? "token" : "token unknown", title: hint, dir: "auto" }, token);
    node.style.setProperty("--tint", of[place] >= 0 ? "var(--for)" : "var(--against)");
    node.style.setProperty("--strength", (Math.abs(of[place]) / strongest).toFixed(3));
    return [node, " "];
  });
  if (reading.cut_at !== null) {
    const mark = element("em", { class: "soft" }, `[${reading.cut_tokens} tokens not read] `);
    tokens.splice(reading.cut_at, 0, [mark]);
  }
  return element("div", { class: "tokens", tabindex: "0", role: "group", "aria-label": `Text coloured for ${label}` }, tokens);
}

const LEFT = 46, TOP = 12, LINES = 130, BARS = 46, GAP = 26;

// The probabilities after each token, and below them what the gates let in and forgot.
export function readingChart(reading) {
  const count = reading.tokens.length;
  const width = Math.max(320, Math.min(900, LEFT + 60 + count * 40));
  const step = (width - LEFT - 10) / count;
  const height = TOP + LINES + (BARS + GAP) * reading.gates.length + 62;
  const x = (place) => LEFT + step * (place + 0.5);
  const parts = [];
  for (const share of [0, 0.5, 1]) {
    const y = TOP + LINES * (1 - share);
    parts.push(drawn("line", { class: "axis", x1: LEFT, x2: width - 10, y1: y, y2: y }));
    parts.push(drawn("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, percent(share)));
  }
  reading.labels.forEach((label, c) => {
    const colour = colourOf(reading.labels, label);
    const points = reading.prefixes.map((row, place) => `${x(place).toFixed(1)},${(TOP + LINES * (1 - row[c])).toFixed(1)}`);
    parts.push(drawn("polyline", { class: `line ${colour}`, points: points.join(" ") }));
    if (count === 1) parts.push(drawn("circle", { class: `bar ${colour}`, r: 3, cx: x(0), cy: TOP + LINES * (1 - reading.prefixes[0][c]) }));
  });
  reading.gates.forEach((gate, row) => {
    const base = TOP + LINES + (BARS + GAP) * (row + 1);
    parts.push(drawn("text", { x: LEFT, y: base - BARS - 6 }, `${gate.direction}: let in (left bar), forgot (right bar)`));
    parts.push(drawn("line", { class: "axis", x1: LEFT, x2: width - 10, y1: base, y2: base }));
    const most = Math.max(...gate.let_in, 1e-9);
    gate.let_in.forEach((value, place) => {
      const wide = Math.max(1, step * 0.35);
      const tall = BARS * value / most, lost = BARS * gate.forgot[place];
      parts.push(drawn("rect", { class: "bar class-2", x: x(place) - wide, y: base - tall, width: wide, height: tall }));
      parts.push(drawn("rect", { class: "bar class-3", x: x(place), y: base - lost, width: wide, height: lost }));
    });
  });
  const every = Math.ceil(14 / step);
  reading.tokens.forEach((token, place) => {
    if (place % every) return;
    const y = height - 50;
    const cut = [...token].slice(0, 10).join("");
    parts.push(drawn("text", { x: x(place), y, transform: `rotate(40 ${x(place)} ${y})` }, cut));
  });
  const last = reading.prefixes[count - 1];
  const ends = reading.labels.map((label, c) => `${label} ${percent(last[c])}`).join(", ");
  const legend = reading.labels.map((label) => element("span", { class: colourOf(reading.labels, label) }, "▬ ", label, "  "));
  for (const item of legend) item.style.color = "var(--class)";
  const name = `Prediction after each of ${count} words; at the end ${ends}`;
  const chart = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": name }, parts);
  chart.style.maxWidth = `${Math.round(1.2 * width)}px`;
  chart.style.minWidth = `${Math.round(0.6 * width)}px`;
  return element("figure", {}, element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Chart of the reading" }, chart),
    element("figcaption", {}, "The prediction after each word, and below what the gates let into memory and how much of it they forgot. ", legend));
}

// The numbers of a reading as a table.
export function readingTable(reading) {
  const gates = reading.gates.flatMap((gate) => [`let in, ${gate.direction}`, `forgot, ${gate.direction}`]);
  const head = ["token", ...reading.labels.map((label) => `for ${label}`), ...reading.labels.map((label) => `${label} so far`), ...gates];
  const rows = reading.tokens.map((token, n) => [
    token, ...reading.attributions[n].map((value) => value.toFixed(2)), ...reading.prefixes[n].map(percent),
    ...reading.gates.flatMap((gate) => [gate.let_in[n].toFixed(2), gate.forgot[n].toFixed(2)])]);
  return element("details", {}, element("summary", {}, "All numbers"),
    table("Contributions in nats, probabilities so far, and gates of each token", head, rows));
}

// A histogram of probabilities in ten bins.
export function confidenceChart(scores) {
  const counts = new Array(10).fill(0);
  for (const score of scores) counts[Math.min(9, Math.floor(10 * score))]++;
  const most = Math.max(...counts, 1);
  const parts = counts.map((count, bin) => {
    const tall = 90 * count / most;
    return [drawn("rect", { class: "bar class-2", x: 10 + 30 * bin, y: 100 - tall, width: 26, height: tall }),
      drawn("text", { x: 23 + 30 * bin, y: 114, "text-anchor": "middle" }, `.${bin}`)];
  }).flat();
  const sure = scores.filter((score) => score >= 0.9).length;
  return element("figure", { class: "histogram" },
    drawn("svg", { viewBox: "0 0 320 120", role: "img", "aria-label": `Rows by the probability of their label; ${sure} of ${scores.length} are above 90 %` },
      drawn("line", { class: "axis", x1: 8, x2: 312, y1: 100, y2: 100 }), parts),
    element("figcaption", {}, "Rows by the probability of their label"));
}
