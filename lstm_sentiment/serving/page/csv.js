// Reading and writing of delimited text (RFC 4180, with , ; or tabs).

export const TEXT_COLUMNS = ["text", "review", "sentence", "tweet", "comment"];
export const LABEL_COLUMNS = ["label", "sentiment", "class", "polarity"];

function rowsOf(text, delimiter) {
  const rows = [];
  let row = [], cell = "", place = 0;
  const end = () => { row.push(cell); cell = ""; };
  while (place < text.length) {
    if (cell === "" && text[place] === '"') {
      for (place++; place < text.length; place++) {
        if (text[place] !== '"') cell += text[place];
        else if (text[place + 1] === '"') { cell += '"'; place++; } else break;
      }
      place++;
      continue;
    }
    const sign = text[place++];
    if (sign === delimiter) end();
    else if (sign === "\n" || sign === "\r") {
      if (sign === "\r" && text[place] === "\n") place++;
      end();
      rows.push(row);
      row = [];
    } else cell += sign;
  }
  if (cell !== "" || row.length) { end(); rows.push(row); }
  return rows.filter((cells) => cells.length > 1 || cells[0] !== "");
}

// Return {delimiter, columns, rows}; the delimiter is the one that the header has most of.
export function parse(text) {
  const plain = text.replace(/^\ufeff/, "");
  const header = plain.slice(0, 5000).split(/[\r\n]/, 1)[0];
  const count = (sign) => header.split(sign).length;
  const delimiter = [",", ";", "\t"].reduce((best, sign) => (count(sign) > count(best) ? sign : best), ",");
  const [columns = [], ...rows] = rowsOf(plain, delimiter);
  return { delimiter, columns, rows };
}

// Return the index of the column with one of some names; -1 for none.
export function columnOf(columns, names) {
  const plain = columns.map((name) => name.trim().toLowerCase());
  return names.map((name) => plain.indexOf(name.toLowerCase())).find((place) => place >= 0) ?? -1;
}

export function write(rows, delimiter = ",") {
  const quoted = (cell) => {
    const text = String(cell ?? "");
    return /["\r\n,;\t]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => `${row.map(quoted).join(delimiter)}\n`).join("");
}

// Read a file as UTF-8, or as Windows-1252 if it is not.
export async function textOf(file) {
  const bytes = await file.arrayBuffer();
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return new TextDecoder("windows-1252").decode(bytes);
  }
}

// Return old rows with corrected labels: rows of the same text get the new label, others are appended.
export function joined(old, corrections) {
  const text = columnOf(old.columns, TEXT_COLUMNS), label = columnOf(old.columns, LABEL_COLUMNS);
  if (text < 0 || label < 0) {
    throw new Error(`needs a column of texts (${TEXT_COLUMNS.join(", ")}) and one of labels (${LABEL_COLUMNS.join(", ")})`);
  }
  const left = new Map(corrections);
  const rows = old.rows.map((row) => {
    if (!corrections.has(row[text])) return row;
    left.delete(row[text]);
    const changed = [...row];
    changed[label] = corrections.get(row[text]);
    return changed;
  });
  for (const [value, name] of left) {
    const row = old.columns.map(() => "");
    row[text] = value;
    row[label] = name;
    rows.push(row);
  }
  return [old.columns, ...rows];
}
