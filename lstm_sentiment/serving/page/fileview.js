// Label a CSV file: preview, progress, counts, unsure rows first, corrections, downloads.

import { ask } from "./api.js";
import { bars, confidenceChart } from "./charts.js";
import { LABEL_COLUMNS, TEXT_COLUMNS, columnOf, joined, parse, textOf, write } from "./csv.js";
import { element, linkTo, percent, save } from "./dom.js";

const MOST_BYTES = 50e6, AT_ONCE = 128, SHOWN = 50, PREVIEW = 5, CUT = 300;

export class FileView {
  constructor(node, models, limits) {
    this.models = models;
    this.limits = limits;
    const input = element("input", { type: "file", id: "file", accept: ".csv,.tsv,.txt", onchange: () => this.open(input.files[0]) });
    this.drop = element("div", { class: "drop" }, element("p", {}, element("label", { for: "file" }, "Drop a CSV file here, or choose one "), input),
      element("p", { class: "soft" }, "It stays in this browser; only its texts are sent to this server."));
    this.drop.addEventListener("dragover", (event) => { event.preventDefault(); this.drop.classList.add("over"); });
    this.drop.addEventListener("dragleave", () => this.drop.classList.remove("over"));
    this.drop.addEventListener("drop", (event) => {
      event.preventDefault();
      this.drop.classList.remove("over");
      this.open(event.dataTransfer.files[0]);
    });
    this.preview = element("div");
    this.result = element("div");
    node.replaceChildren(element("h2", {}, "Label a file"), this.drop, this.preview, this.result);
  }

  use(models) {
    this.models = models;
    if (this.file) this.showPreview();
    this.result.replaceChildren();
  }

  async open(file) {
    if (!file) return;
    this.running?.abort();
    this.result.replaceChildren();
    if (file.size > MOST_BYTES) {
      this.preview.replaceChildren(element("p", { role: "alert" }, "The file is larger than 50 MB: label it with lstm-sentiment predict --file."));
      return;
    }
    this.file = { name: file.name, ...parse(await textOf(file)) };
    this.showPreview();
  }

  showPreview() {
    const { columns, rows, name } = this.file;
    if (!rows.length) {
      this.preview.replaceChildren(element("p", { role: "alert" }, "The file has no rows below its header."));
      return;
    }
    const trained = this.models[0].text_column ? [this.models[0].text_column] : [];
    const found = columnOf(columns, [...trained, ...TEXT_COLUMNS]);
    const chosen = found >= 0 ? found : 0;
    this.column = element("select", { id: "column" }, columns.map((column, place) => element("option", { value: place, selected: place === chosen }, column)));
    const head = columns.map((column) => element("th", { scope: "col", dir: "auto" }, column));
    const body = rows.slice(0, PREVIEW).map((row) => element("tr", {}, columns.map((_, place) => element("td", { class: "text", dir: "auto" }, (row[place] ?? "").slice(0, CUT)))));
    this.start = element("button", { type: "button", onclick: () => this.label() }, `Label ${rows.length.toLocaleString("en")} rows`);
    this.preview.replaceChildren(
      element("h3", {}, name), element("p", {}, `${rows.length.toLocaleString("en")} rows; columns: ${columns.join(", ")}`),
      element("div", { class: "row" }, element("label", {}, "Column with the text ", this.column), this.start),
      element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "First rows" }, element("table", {}, element("thead", {}, element("tr", {}, head)), element("tbody", {}, body))));
  }

  // Return parts of the texts that fit into a request each: [first, last) rows.
  parts(texts) {
    const parts = [], encoder = new TextEncoder();
    let first = 0, bytes = 0;
    texts.forEach((text, place) => {
      const size = encoder.encode(JSON.stringify(text)).length + 1;
      if (place > first && (place - first >= Math.min(AT_ONCE, this.limits.texts) || bytes + size > this.limits.body - 1000)) {
        parts.push([first, place]);
        first = place;
        bytes = 0;
      }
      bytes += size;
    });
    return [...parts, [first, texts.length]];
  }

  async label() {
    this.running?.abort();
    const { signal } = (this.running = new AbortController());
    const place = Number(this.column.value);
    this.texts = this.file.rows.map((row) => row[place] ?? "");
    const sent = this.texts.map((text) => [...text].slice(0, this.limits.characters).join(""));
    this.found = this.models.map(() => []);
    this.corrections = new Map();
    const bar = element("progress", { max: this.texts.length, value: 0, "aria-label": "Rows labelled" });
    const count = element("span", { role: "status" }, "0 rows");
    const stop = element("button", { type: "button", onclick: () => { this.running.abort(); this.result.replaceChildren(); } }, "Cancel");
    this.result.replaceChildren(element("div", { class: "row" }, bar, count, stop));
    try {
      for (const [first, last] of this.parts(sent)) {
        for (const [number, model] of this.models.entries()) {
          const asked = { inputs: sent.slice(first, last), parameters: { model: model.name } };
          this.found[number].push(...await ask("/predict", asked, signal));
        }
        bar.value = last;
        count.textContent = `${last.toLocaleString("en")} of ${this.texts.length.toLocaleString("en")} rows`;
      }
      this.show();
    } catch (error) {
      if (signal.aborted) return;
      count.textContent = error.message;
    }
  }

  predicted(model, row) {
    return this.found[model][row][0];
  }

  differs(row) {
    return this.found.some((found) => found[row][0].label !== this.predicted(0, row).label);
  }

  show() {
    const rows = this.texts.map((_, row) => row);
    this.order = rows.sort((a, b) => this.predicted(0, a).score - this.predicted(0, b).score);
    const several = this.models.length > 1;
    const different = rows.filter((row) => this.differs(row)).length;
    const summaries = this.models.map((model, number) => {
      const counts = model.labels.map((label) => this.found[number].filter((found) => found[0].label === label).length);
      const shares = counts.map((n) => n / this.texts.length);
      return element("section", { class: "panel", "aria-label": `Counts of ${model.name}` }, element("h3", {}, model.name),
        bars(model.labels, shares, counts.map((n) => `${n.toLocaleString("en")}`), shares.map((share) => `(${percent(share)})`)),
        confidenceChart(this.found[number].map((found) => found[0].score)));
    });
    this.only = element("input", { type: "checkbox", onchange: () => this.list(SHOWN) });
    const filter = several ? element("label", {}, this.only, ` only the ${different.toLocaleString("en")} rows where the models differ`) : null;
    this.body = element("tbody");
    this.more = element("button", { type: "button", onclick: () => this.list(this.body.children.length + SHOWN) }, "Show more rows");
    this.corrected = element("p", { role: "status" });
    const head = ["Text", ...this.models.map((model) => (several ? `Label, ${model.name}` : "Label")), "Correct label"];
    const old = element("input", { type: "file", id: "old", accept: ".csv,.tsv,.txt", onchange: () => this.join(old.files[0]) });
    this.result.replaceChildren(
      element("h2", {}, `${this.texts.length.toLocaleString("en")} rows labelled`), element("div", { class: "panels" }, summaries),
      element("div", { class: "row" },
        element("button", { type: "button", onclick: () => this.saveLabelled() }, "Download labelled file"),
        element("button", { type: "button", onclick: () => this.saveCorrections() }, "Download corrections"),
        element("label", { for: "old" }, "Join corrections with an old training file "), old),
      this.corrected,
      element("p", { class: "soft" }, `Unsure rows first. In a row, the keys 1 to ${Math.min(9, this.models[0].labels.length)} give it a label, 0 none; the arrows go up and down.`),
      element("div", { class: "row" }, filter),
      element("div", { class: "scroll" }, element("table", { "aria-label": "Labelled rows" },
        element("thead", {}, element("tr", {}, head.map((name) => element("th", { scope: "col" }, name)))), this.body)),
      this.more);
    this.list(SHOWN);
    this.count();
  }

  list(most) {
    const rows = this.only.checked ? this.order.filter((row) => this.differs(row)) : this.order;
    this.body.replaceChildren(...rows.slice(0, most).map((row, place) => this.line(row, place === 0)));
    this.more.hidden = rows.length <= most;
  }

  line(row, first) {
    const text = this.texts[row];
    const { labels } = this.models[0];
    const buttons = labels.map((label, place) => element("button", { type: "button", "aria-pressed": this.corrections.get(row) === label, tabindex: "-1", onclick: () => this.correct(row, label, node) },
      place < 9 ? `${place + 1} ` : "", label));
    const cells = this.models.map((_, number) => {
      const { label, score } = this.predicted(number, row);
      return element("td", { class: "n", dir: "auto" }, `${label} ${percent(score)}`);
    });
    const node = element("tr", { tabindex: first ? "0" : "-1", class: this.corrections.has(row) ? "corrected" : "", onkeydown: (event) => this.key(event, row, node) },
      element("td", { class: "text", dir: "auto" }, element("a", { href: linkTo(text.slice(0, 5000)), tabindex: "-1" }, text.trim() ? text.slice(0, CUT) : "(no text)")),
      cells, element("td", {}, element("div", { class: "row" }, buttons)));
    return node;
  }

  key(event, row, node) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { labels } = this.models[0];
    const move = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    if (move) this.focus(node[move]);
    else if (event.key === "Enter" && event.target === node) node.querySelector("a").click();
    else if (event.key === "0") this.correct(row, null, node);
    else if (/^[1-9]$/.test(event.key) && event.key <= labels.length) {
      this.correct(row, labels[event.key - 1], node);
    } else return;
    event.preventDefault();
  }

  focus(node) {
    if (!node) return;
    for (const other of this.body.querySelectorAll("tr[tabindex='0']")) other.tabIndex = -1;
    node.tabIndex = 0;
    node.focus();
  }

  correct(row, label, node) {
    if (label === null || this.corrections.get(row) === label) this.corrections.delete(row);
    else this.corrections.set(row, label);
    const changed = this.line(row, node.tabIndex === 0);
    node.replaceWith(changed);
    this.focus(changed);
    this.count();
  }

  count() {
    const number = this.corrections.size;
    this.corrected.textContent = number ? `Rows with a label of yours: ${number}` : "No row has a label of yours yet.";
  }

  saveLabelled() {
    const { columns, rows, delimiter, name } = this.file;
    const several = this.models.length > 1;
    const added = this.models.flatMap((model) => {
      const own = several ? `_${model.name}` : "";
      return [`predicted_label${own}`, `predicted_score${own}`, ...model.labels.map((label) => `probability_${label}${own}`)];
    });
    const lines = rows.map((row, place) => [...columns.map((_, c) => row[c] ?? ""), ...this.models.flatMap((model, number) => {
      const of = new Map(this.found[number][place].map(({ label, score }) => [label, score]));
      const best = this.predicted(number, place);
      return [best.label, best.score, ...model.labels.map((label) => of.get(label))];
    })]);
    save(`labelled-${name.replace(/\.\w+$/, "")}.csv`, write([[...columns, ...added], ...lines], delimiter), "text/csv");
  }

  corrections_by_text() {
    return new Map([...this.corrections].map(([row, label]) => [this.texts[row], label]));
  }

  saveCorrections() {
    const rows = [...this.corrections_by_text()];
    save("corrections.csv", write([["text", "label"], ...rows]), "text/csv");
  }

  async join(file) {
    if (!file) return;
    try {
      const old = parse(await textOf(file));
      save(`corrected-${file.name.replace(/\.\w+$/, "")}.csv`, write(joined(old, this.corrections_by_text()), old.delimiter), "text/csv");
      this.corrected.textContent = `${this.corrections.size} corrections joined with ${old.rows.length} rows of ${file.name}.`;
    } catch (error) {
      this.corrected.textContent = `${file.name}: ${error.message}`;
    }
  }
}
