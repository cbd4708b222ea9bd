// Start: models, tabs, links.

import { ask } from "./api.js";
import { element } from "./dom.js";
import { FileView } from "./fileview.js";
import { RunsView } from "./runsview.js";
import { TextView } from "./textview.js";

const names = ["text", "file", "runs"];
const tabs = names.map((name) => document.getElementById(`tab-${name}`));
const views = names.map((name) => document.getElementById(`view-${name}`));

function select(name, focus = false) {
  names.forEach((other, place) => {
    const here = other === name;
    tabs[place].setAttribute("aria-selected", here);
    tabs[place].tabIndex = here ? 0 : -1;
    views[place].hidden = !here;
    if (here && focus) tabs[place].focus();
  });
}

tabs.forEach((tab, place) => {
  tab.addEventListener("click", () => select(names[place]));
  tab.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (move) select(names[(place + move + names.length) % names.length], true);
  });
});

function choose(label, models, chosen, none, change) {
  const options = models.map((model) => element("option", { value: model.name, selected: model.name === chosen }, model.name));
  if (none) options.unshift(element("option", { value: "", selected: chosen === "" }, "no other"));
  const field = element("select", { onchange: change }, options);
  return [field, element("label", {}, `${label} `, field)];
}

async function start() {
  const { models, limits } = await ask("/page/models");
  let fields = [];
  const chosen = () => [...new Set(fields.map((field) => field.value).filter(Boolean))].map((name) => models.find((model) => model.name === name));
  const change = () => { text.use(chosen()); file.use(chosen()); };
  if (models.length > 1) {
    const made = [choose("Model", models, models[0].name, false, change), choose("Compare with", models, models[1].name, true, change)];
    fields = made.map(([field]) => field);
    document.getElementById("models").replaceChildren(...made.map(([, label]) => label));
  }
  const first = fields.length ? chosen() : models;
  const given = textOfLink();
  const text = new TextView(views[0], first, limits);
  const file = new FileView(views[1], first, limits);
  new RunsView(views[2], models);
  const open = (value) => {
    if (value === null) return;
    select("text");
    text.set(value);
  };
  open(given);
  window.addEventListener("hashchange", () => {
    const value = textOfLink();
    open(value);
    if (value !== null) window.scrollTo(0, 0);
  });
  document.body.setAttribute("data-ready", "");
}

function textOfLink() {
  if (!location.hash.startsWith("#text=")) return null;
  try {
    return decodeURIComponent(location.hash.slice(6));
  } catch {
    return location.hash.slice(6);
  }
}

start();
