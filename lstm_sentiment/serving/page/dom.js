// Building the page. Text always becomes a text node, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith("aria-")) node.setAttribute(name, String(value));
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function drawn(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export function percent(share) {
  return `${(100 * share).toFixed(share > 0.995 && share < 1 ? 1 : 0)} %`;
}

// Offer a text as a file to save.
export function save(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = element("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

export function linkTo(text) {
  return `#text=${encodeURIComponent(text.toWellFormed ? text.toWellFormed() : text)}`;
}

// A table whose header cells have a scope; rows are lists of cells, each a text or a node.
export function table(caption, head, rows) {
  const header = head.map((name) => element("th", { scope: "col" }, name));
  const body = rows.map((row) => element("tr", {}, row.map((cell) => element("td", { class: "n" }, cell))));
  return element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
    element("table", {}, element("caption", { class: "soft" }, caption),
      element("thead", {}, element("tr", {}, header)), element("tbody", {}, body)));
}
