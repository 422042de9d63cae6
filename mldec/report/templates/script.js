"use strict";
// Tables are sorted by their heads and filtered by a word. Without this script they are in the order that counts.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  for (const head of table.querySelectorAll("th[data-column]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const column = Number(head.dataset.column);
      const words = head.dataset.words !== undefined;
      const up = head.hasAttribute("aria-sort") ? head.getAttribute("aria-sort") === "descending" : words;
      const rows = Array.from(body.rows, (row) => {
        const text = row.cells[column].textContent;
        return [row, words ? text : parseFloat(text.replaceAll(",", "").replace("\u2212", "-"))];
      });
      const order = new Intl.Collator(undefined, { numeric: true }).compare;
      rows.sort(([, a], [, b]) => {
        if (words) return up ? order(a, b) : order(b, a);
        if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
        return up ? a - b : b - a;
      });
      body.append(...rows.map(([row]) => row));
      for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
    });
  }
}
for (const tools of document.querySelectorAll("[data-filter]")) {
  const rows = Array.from(document.getElementById(tools.dataset.filter).tBodies[0].rows);
  const names = rows.map((row) => row.cells[0].textContent.toLowerCase());
  const [input, output] = [tools.querySelector("input"), tools.querySelector("output")];
  tools.hidden = false;
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, i) => {
      row.hidden = !words.every((word) => names[i].includes(word));
      shown += row.hidden ? 0 : 1;
    });
    output.textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
  });
}
