// The runs of the server: their scores, report and worst mistakes.

import { ask } from "./api.js";
import { element, linkTo, percent } from "./dom.js";

export class RunsView {
  constructor(node, models) {
    node.replaceChildren(...models.map((model) => this.section(model)));
  }

  section(model) {
    const list = element("div", { role: "status" });
    const facts = [`classes: ${model.labels.join(", ")}`, model.kind === "onnx" ? "exported model" : "run", ...model.scores];
    const button = element("button", { type: "button", onclick: async () => {
      button.disabled = true;
      list.replaceChildren(element("p", { class: "soft" }, "Predicting the run's own rows …"));
      try {
        const found = await ask(`/page/mistakes/${encodeURIComponent(model.name)}`);
        list.replaceChildren(this.mistakes(model, found));
      } catch (error) {
        list.replaceChildren(element("p", {}, error.message));
        button.disabled = false;
      }
    } }, "Show its worst mistakes");
    const report = model.report
      ? element("a", { href: `/page/report/${encodeURIComponent(model.name)}` }, "Report of this run")
      : element("span", { class: "soft" }, model.rows ? "No report yet: lstm-sentiment report writes one." : "");
    return element("section", { "aria-label": model.name }, element("h2", {}, model.name),
      element("ul", {}, facts.map((fact) => element("li", { dir: "auto" }, fact))),
      element("div", { class: "row" }, report, model.rows ? button : null), list);
  }

  mistakes(model, found) {
    if (!found.mistakes.length) return element("p", {}, found.why || "None: all its held-out rows are predicted right.");
    const rows = found.mistakes.map((row) => element("tr", {},
      element("td", { class: "text", dir: "auto" }, element("a", { href: linkTo(row.text) }, row.text.slice(0, 300))),
      element("td", { dir: "auto" }, `${row.given} ${percent(row.given_probability)}`),
      element("td", { dir: "auto" }, `${row.predicted} ${percent(row.predicted_probability)}`),
      element("td", { class: "n" }, `${row.file}:${row.line}`)));
    const head = ["Text", "Its label", "Predicted", "Row"].map((name) => element("th", { scope: "col" }, name));
    return element("div", { class: "scroll" }, element("table", { "aria-label": `Worst mistakes of ${model.name}` },
      element("thead", {}, element("tr", {}, head)), element("tbody", {}, rows)));
  }
}
