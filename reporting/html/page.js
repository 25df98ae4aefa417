"use strict";
// Tables are sorted by a click on a heading, and filtered by the field above them.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...body.rows].map((row) => ({ row, cell: row.cells[column] }));
    rows.sort((a, b) => (up ? 1 : -1) * compare(a.cell, b.cell) || 0);
    // What has no number stays below, whichever way the others go.
    if (heads[column].className === "number") {
      rows.sort((a, b) => ("value" in b.cell.dataset) - ("value" in a.cell.dataset));
    }
    body.append(...rows.map((entry) => entry.row));
  }));
}
function compare(a, b) {
  if ("value" in a.dataset && "value" in b.dataset) {
    return Number(a.dataset.value) - Number(b.dataset.value);
  }
  return a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
}
for (const field of document.querySelectorAll("input[data-filters]")) {
  const rows = [...document.getElementById(field.dataset.filters).tBodies[0].rows];
  const count = field.closest(".filter").querySelector(".count");
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = words.length ? `${shown} of ${rows.length}` : "";
  });
}
