// Type and see the prediction change: probabilities, the coloured text, the reading.

import { ask } from "./api.js";
import { bars, colouredText, readingChart, readingTable } from "./charts.js";
import { element, linkTo, percent } from "./dom.js";

const COVERAGE = 0.9, TYPING_MS = 120, READING_MS = 300, LONGEST_LINK = 20000;

class Panel {
  constructor(model) {
    this.model = model;
    this.result = element("p", { class: "result" });
    this.bars = element("div");
    this.class = element("select", { onchange: () => this.colour() });
    this.choice = element("p", { class: "row", hidden: true }, element("label", {}, "Coloured for ", this.class));
    this.text = element("div");
    this.chart = element("div");
    this.node = element("section", { class: "panel", "aria-label": model.name },
      element("h2", {}, model.name), this.result, this.bars, this.choice, this.text, this.chart);
  }

  clear() {
    this.result.textContent = "";
    this.choice.hidden = true;
    for (const part of [this.bars, this.text, this.chart]) part.replaceChildren();
  }

  show(prediction) {
    const { labels } = this.model;
    const of = new Map(prediction.scores.map(({ label, score }) => [label, score]));
    const shares = labels.map((label) => of.get(label));
    this.label = prediction.scores[0].label;
    this.result.textContent = `${this.label}, ${percent(prediction.scores[0].score)}`;
    const within = new Set(prediction.label_set ?? []);
    const notes = labels.map((label) => (within.has(label) ? "●" : ""));
    const set = prediction.label_set ? `● in the label set for ${percent(COVERAGE)}: ${prediction.label_set.join(" or ")}` : "";
    this.bars.replaceChildren(bars(labels, shares, shares.map(percent), notes), element("p", { class: "soft" }, set));
  }

  read(reading) {
    this.reading = { ...reading, labels: this.model.labels };
    this.choice.hidden = reading.tokens.length === 0;
    const before = this.chosen ?? this.label;
    this.class.replaceChildren(...this.model.labels.map((label) => element("option", { selected: label === before }, label)));
    this.colour();
    if (reading.tokens.length === 0) {
      this.chart.replaceChildren(element("p", { class: "soft" }, "The text has no words."));
      return;
    }
    const cut = reading.cut_tokens ? `${reading.cut_tokens} tokens of the text were not read. ` : "";
    this.chart.replaceChildren(element("p", { class: "soft" }, cut), readingChart(this.reading), readingTable(this.reading));
  }

  colour() {
    this.text.replaceChildren(...(this.reading.tokens.length ? [colouredText(this.reading, this.class.value)] : []));
  }
}

export class TextView {
  constructor(node, models, limits) {
    this.limits = limits;
    this.field = element("textarea", { id: "text", dir: "auto", spellcheck: "false", oninput: () => this.changed() });
    this.link = element("button", { type: "button", onclick: () => this.copy() }, "Copy link");
    this.note = element("span", { class: "soft", role: "status" });
    this.spoken = element("p", { class: "soft", role: "status" });
    this.panels = element("div", { class: "panels" });
    node.replaceChildren(element("label", { for: "text" }, "Text"), this.field,
      element("div", { class: "row" }, this.link, this.note), this.spoken, this.panels);
    this.use(models);
  }

  use(models) {
    this.shown = models.map((model) => new Panel(model));
    this.panels.replaceChildren(...this.shown.map((panel) => panel.node));
    this.predict();
  }

  set(text) {
    if (this.field.value === text) return;
    this.field.value = text;
    this.predict();
  }

  changed() {
    clearTimeout(this.typing);
    this.typing = setTimeout(() => this.predict(), TYPING_MS);
  }

  copy() {
    const url = location.href.split("#")[0] + linkTo(this.field.value);
    navigator.clipboard.writeText(url).then(() => { this.note.textContent = "Copied."; },
      () => { this.note.textContent = url; });
  }

  async predict() {
    this.running?.abort();
    const { signal } = (this.running = new AbortController());
    const text = this.field.value;
    this.note.textContent = "";
    history.replaceState(null, "", text && text.length <= LONGEST_LINK ? linkTo(text) : "#text");
    this.link.disabled = !text || text.length > LONGEST_LINK;
    if (!text.trim()) {
      this.spoken.textContent = "";
      for (const panel of this.shown) panel.clear();
      return;
    }
    if ([...text].length > this.limits.characters) {
      this.note.textContent = `At most ${this.limits.characters} characters are read.`;
      return;
    }
    try {
      await Promise.all(this.shown.map((panel) => this.predictWith(panel, text, signal)));
      this.compare();
      await new Promise((resolve) => setTimeout(resolve, READING_MS));
      signal.throwIfAborted();
      this.spoken.textContent = this.difference;
      await Promise.all(this.shown.filter((panel) => panel.model.kind === "run").map(async (panel) => {
        panel.read(await ask("/page/reading", { text, model: panel.model.name }, signal));
      }));
    } catch (error) {
      if (!signal.aborted && error.constructor.name !== "RequestError") throw error;
    }
  }

  async predictWith(panel, text, signal) {
    const asked = { model: panel.model.name, abstain_below: 0, ...(panel.model.sets ? { coverage: COVERAGE } : {}) };
    const [prediction] = await ask("/predict", { inputs: text, parameters: asked }, signal);
    panel.show(prediction);
  }

  // Say what was predicted, and whether two models differ.
  compare() {
    const results = this.shown.map((panel) => panel.result.textContent);
    const labels = new Set(this.shown.map((panel) => panel.label));
    if (results.length < 2) this.difference = "";
    else this.difference = `${labels.size > 1 ? "The models differ" : "The models agree"}: ${results.join(" and ")}.`;
    this.panels.setAttribute("data-shown", results.join("|"));
  }
}
